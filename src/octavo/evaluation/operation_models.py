"""Models that are one operation over and over, bound by any backend as real ones are.

Weights and layers come in rotation, so that each operation finds its own in memory and not in a cache; activations are
the same for all, as a step's are in the caches too.
"""

import itertools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.grouped import GroupedWeight
from octavo.kernels.interface import ForwardPass, Kernels
from octavo.kernels.operations import Weight
from octavo.kernels.quantized import QuantizedWeight, quantize_rows
from octavo.kernels.quantizing import INT4
from octavo.layer_groups import one_group
from octavo.layers.build import ModelBuild

CPU = torch.device("cpu")
NUM_INPUTS = 64
"""Different rows of activations."""
VALID_BYTE = 0x3C
"""Repeated, it is an ordinary number in float32, bfloat16, float16 and int8."""

OperationChain = Callable[[Any, ForwardContext], Any]
"""From activations to what the head reads."""


@dataclass(frozen=True, slots=True)
class _OperationModel:
    """Operations between a table of activations, one row a token, and a head of products."""

    has_head = True

    kernels: Kernels
    table: torch.Tensor
    operations: OperationChain
    head: Weight

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        result: torch.Tensor = self.operations(self.kernels.embedding(context.batch.token_ids, self.table), context)
        return result

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.kernels.linear(hidden, self.head)


def activation_dtype(precision: str) -> torch.dtype:
    """What a model with weights in this precision computes in, as far as its backend follows its dtype."""
    dtype: torch.dtype = torch.float32 if precision in ("int8", "int4") else getattr(torch, precision)
    return dtype


def random_weight(num_outputs: int, num_inputs: int, precision: str, kernels: Kernels) -> Weight:
    """A matrix of the magnitude that models have."""
    if precision == "int4":
        return _random_int4(num_outputs, num_inputs)
    values = torch.randn(num_outputs, num_inputs, generator=torch.Generator().manual_seed(0)).mul_(0.02)
    build = ModelBuild(
        activation_dtype(precision), CPU, kernels, quantization="int8" if precision == "int8" else "none"
    )
    weight = build.weight(num_outputs, num_inputs)
    if isinstance(weight, QuantizedWeight):
        weight.values.data, weight.scales.data = quantize_rows(values)
    else:
        weight.data = values.to(weight.dtype)
    return weight


def _random_int4(num_outputs: int, num_inputs: int) -> GroupedWeight:
    weight = GroupedWeight(num_outputs, num_inputs, INT4, CPU)
    weight.codes.random_(0, 256, generator=torch.Generator().manual_seed(0))
    weight.scales.data.fill_(0.02 / 4)
    weight.row_scales.data.fill_(1)
    if weight.minimums is not None:
        weight.minimums.data.fill_(0.02)
    return weight


def copy_weight(weight: Weight) -> Weight:
    """The same matrix in memory of its own."""
    return deepcopy(weight)


def num_weight_bytes(weight: Weight) -> int:
    """Bytes that a product reads of it."""
    tensors = [weight] if isinstance(weight, torch.Tensor) else list(weight.parameters())
    return sum(tensor.nbytes for tensor in tensors)


def bind_operations(
    kernels: Kernels,
    width: int,
    dtype: torch.dtype,
    operations: OperationChain,
    *,
    head: Weight | None = None,
    cache: KVCache | None = None,
) -> ForwardPass:
    """A model of operations on activations `[num_tokens, width]` of `dtype`.

    Args:
        operations: takes the activations and the context, returns what the head reads.
        head: `[vocab_size, width of what the operations return]`; a stand-in where no logits are wanted.
        cache: a stand-in where nothing attends.
    """
    table = torch.randn(NUM_INPUTS, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    cache = cache or kernels.allocate_cache(CacheShape(1, one_group(1), 16, 1, 16, torch.float32), CPU)
    head = torch.zeros(1, width, dtype=dtype) if head is None else head
    return kernels.bind(_OperationModel(kernels, table, operations, head), cache)


def bind_products(
    kernels: Kernels, num_outputs: int, num_inputs: int, precision: str, *, copies: int, shared: bool = False
) -> ForwardPass:
    """`copies` products of the same activations, with a weight each, or all with one where `shared`."""
    weight = random_weight(num_outputs, num_inputs, precision, kernels)
    weights = [weight if shared else copy_weight(weight) for _ in range(copies)]

    def multiply(hidden: Any, context: ForwardContext) -> Any:
        for weight in weights:
            product = kernels.linear(hidden, weight)
        return product

    return bind_operations(kernels, num_inputs, activation_dtype(precision), multiply)


def bind_attention(kernels: Kernels, cache: KVCache, specs: list[AttentionSpec], dtype: torch.dtype) -> ForwardPass:
    """The attention of all layers, each of the same queries, keys and values over its own part of the cache."""
    width = (specs[0].num_heads + 2 * specs[0].num_kv_heads) * specs[0].head_dim

    def attend(qkv: Any, context: ForwardContext) -> Any:
        for spec in specs:
            attended = kernels.attention(qkv, context, spec)
        return attended

    return bind_operations(kernels, width, dtype, attend, cache=cache)


def written_cache(kernels: Kernels, shape: CacheShape) -> KVCache:
    """A cache all of whose pages are in memory: what is read costs as much as if a model had written it."""
    cache = kernels.allocate_cache(shape, CPU)
    cache.records.fill_(VALID_BYTE)
    return cache


def tokens(count: int) -> RaggedBatch:
    """A step of `count` tokens for operations that don't attend."""
    return _batch([0] * count, [1] * count, torch.zeros(count, 1, dtype=torch.int64), 16)


def rows_in_rotation(
    shape: CacheShape, num_rows: int, context: int, num_new: int, most: int = 64
) -> "itertools.cycle[RaggedBatch]":
    """Steps in which each row has `context` tokens, the last `num_new` of them new. Blocks are scattered over the
    cache, as after some hours of serving, and each step's rows have others, as far as there are."""
    blocks_each = -(-context // shape.block_size)
    shuffled = torch.randperm(shape.num_blocks, generator=torch.Generator().manual_seed(2))
    num_steps = min(most, shape.num_blocks // (num_rows * blocks_each))
    tables = shuffled[: num_steps * num_rows * blocks_each].view(num_steps, num_rows, blocks_each)
    starts, new = [context - num_new] * num_rows, [num_new] * num_rows
    return itertools.cycle([_batch(starts, new, table, shape.block_size) for table in tables])


def _batch(starts: list[int], num_new: list[int], block_tables: torch.Tensor, block_size: int) -> RaggedBatch:
    counts = torch.tensor(num_new)
    query_starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    row_of_token = torch.arange(len(counts)).repeat_interleave(counts)
    positions = torch.cat([torch.arange(start, start + new) for start, new in zip(starts, num_new, strict=True)])
    slots = block_tables[row_of_token, positions // block_size] * block_size + positions % block_size
    return RaggedBatch(
        token_ids=torch.arange(len(positions)) % NUM_INPUTS,
        positions=positions,
        slots=slots.unsqueeze(0),
        query_starts=query_starts,
        context_lens=torch.tensor(starts) + counts,
        tables=torch.arange(len(counts)),
        block_tables=block_tables.contiguous().unsqueeze(0),
    )
