"""The kernels as single calls to be timed: each on the shapes of a model, through whichever backend would serve it."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from octavo.errors import ConfigError
from octavo.evaluation.kernel_names import KINDS, WEIGHT_PRECISIONS
from octavo.evaluation.operation_models import (
    CPU,
    OperationChain,
    activation_dtype,
    bind_attention,
    bind_operations,
    bind_products,
    copy_weight,
    num_weight_bytes,
    random_weight,
    rows_in_rotation,
    tokens,
    written_cache,
)
from octavo.execution.machine import free_memory_bytes
from octavo.kernels import Needs, select_kernels
from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.interface import ForwardPass, Kernels
from octavo.layer_groups import one_group
from octavo.layers.build import ModelBuild
from octavo.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, RowParallelLinear
from octavo.layers.rotary import RotaryEmbedding
from octavo.models.config import ModelConfig
from octavo.models.registry import build_model

ROTATION_BYTES, MOST_COPIES = 128 << 20, 512
"""Of weights that take turns: several times the caches of a few cores, where they are not tiny."""
POINTWISE_COPIES = 30
COPIED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWork:
    """What to measure. Sizes are the model's; the rest is asked for."""

    model: ModelConfig
    backend: str = "auto"
    """As `--kernels`."""
    block_size: int = 16
    kinds: tuple[str, ...] = KINDS
    precisions: tuple[str, ...] = WEIGHT_PRECISIONS
    rows: tuple[int, ...] = (1, 4, 8, 16, 64, 256)
    kv_precisions: tuple[str, ...] = ("bfloat16", "int8")
    sequences: tuple[int, ...] = (1, 64)
    """Of decode."""
    contexts: tuple[int, ...] = (128, 2048)
    """Of decode, in tokens."""
    prefill: tuple[int, ...] = (2048,)
    """Prompt lengths."""

    def kernels(self, dtype: torch.dtype, cache_dtype: torch.dtype = torch.float32) -> Kernels:
        """As an engine would choose them.

        Raises:
            ConfigError: none can serve.
        """
        return select_kernels(Needs(CPU, dtype, cache_dtype), self.backend).kernels

    def cache_shape(self, num_tokens: int, precision: str) -> CacheShape:
        """A KV cache of the model's layers for so many tokens."""
        model, num_blocks = self.model, -(-num_tokens // self.block_size)
        return CacheShape(
            num_blocks,
            one_group(model.num_hidden_layers),
            self.block_size,
            model.num_key_value_heads,
            model.head_dim,
            getattr(torch, precision),
        )

    def check(self) -> None:
        """Make sure, before anything is measured, that it fits.

        Raises:
            ConfigError: a sequence is longer than the model allows, or the KV is more than is free.
        """
        longest = self.model.max_position_embeddings
        for name, lengths in (("--context", self.contexts), ("--prefill", self.prefill)):
            if max(lengths) > longest:
                raise ConfigError(f"{name} {max(lengths)} is over the {longest} tokens that the model was made for")
        if "decode" in self.kinds:
            num_tokens = max(self.sequences) * (max(self.contexts) + self.block_size)
            needed = max(self.cache_shape(num_tokens, each).num_bytes for each in self.kv_precisions)
            if needed > free_memory_bytes():
                raise ConfigError(
                    f"the KV of --sequences {max(self.sequences)} with --context {max(self.contexts)} takes "
                    f"{needed / 2**20:,.0f} MiB, and {free_memory_bytes() / 2**20:,.0f} MiB are free: lower one"
                )

    def products(self) -> dict[str, tuple[int, int]]:
        """The model's products within its layers: (outputs, inputs) by the module's name."""
        build = ModelBuild(torch.float32, torch.device("meta"), self.kernels(torch.float32))
        found = {}
        for name, module in cast(nn.Module, build_model(self.model, build)).named_modules():
            if isinstance(module, ColumnParallelLinear | MergedColumnParallelLinear | RowParallelLinear):
                num_outputs, num_inputs = cast(torch.Tensor, module.weight).shape
                found[name.rpartition(".")[2]] = (num_outputs, num_inputs)
        return found


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel ready to be called, and what one call gets through."""

    kind: str
    shape: str
    precision: str
    rows: int
    call: Callable[[], object]
    count: int
    """Operations in a call."""
    num_bytes: float
    """Of one of them, as the next."""
    operations: dict[str, float] = field(default_factory=dict)
    """By the precision whose products limit them."""


def cases(work: KernelWork) -> Iterator[Case]:
    """One after another, as `count_cases` counts them; each is to be called before the next is taken."""
    for kind in work.kinds:
        yield from _SOURCES[kind](work)


def count_cases(work: KernelWork) -> int:
    """How many figures there will be."""
    rows = len(work.rows)
    counts = {
        "product": len(work.products()) * len(work.precisions) * rows,
        "logits": len(work.precisions) * rows,
        "decode": len(work.kv_precisions) * len(work.sequences) * len(work.contexts),
        "prefill": len(work.kv_precisions) * len(work.prefill),
        "norm": rows,
        "activation": rows,
        "copy": len(work.kv_precisions),
    }
    return sum(counts[kind] for kind in work.kinds)


def _products(work: KernelWork) -> Iterator[Case]:
    for (name, (num_outputs, num_inputs)), precision in itertools.product(work.products().items(), work.precisions):
        kernels = work.kernels(activation_dtype(precision))
        num_bytes = num_weight_bytes(random_weight(num_outputs, num_inputs, precision, kernels))
        copies = _num_copies(num_bytes)
        forward = bind_products(kernels, num_outputs, num_inputs, precision, copies=copies)
        for rows in work.rows:
            operations = {precision: 2.0 * rows * num_outputs * num_inputs}
            what = f"{name} {num_inputs} -> {num_outputs}"
            call = partial(forward.run, tokens(rows))
            yield Case("product", what, precision, rows, call, copies, num_bytes, operations)


def _num_copies(num_bytes: int) -> int:
    return max(2, min(MOST_COPIES, -(-ROTATION_BYTES // num_bytes)))


def _logits(work: KernelWork) -> Iterator[Case]:
    vocab_size, hidden_size = work.model.vocab_size, work.model.hidden_size
    for precision in work.precisions:
        kernels, dtype = work.kernels(activation_dtype(precision)), activation_dtype(precision)
        weight = random_weight(vocab_size, hidden_size, precision, kernels)
        num_bytes = num_weight_bytes(weight)
        heads = [copy_weight(weight) for _ in range(_num_copies(num_bytes))]
        forwards = [
            bind_operations(kernels, hidden_size, dtype, lambda hidden, context: hidden, head=head) for head in heads
        ]
        for forward in forwards:
            forward.run(tokens(max(work.rows)))
        for rows in work.rows:
            call = partial(_compute_logits, forwards, rows)
            operations = {precision: 2.0 * rows * vocab_size * hidden_size}
            shape = f"{hidden_size} -> {vocab_size}"
            yield Case("logits", shape, precision, rows, call, len(forwards), num_bytes, operations)


def _compute_logits(forwards: list[ForwardPass], rows: int) -> None:
    for forward in forwards:
        forward.logits(np.arange(rows))


def _layers(work: KernelWork, longest: int) -> list[AttentionSpec]:
    """The attention of the model's layers, its positions rotated."""
    model = work.model
    build = ModelBuild(torch.float32, CPU, work.kernels(torch.float32))
    rotary = RotaryEmbedding(model.head_dim, longest, model.rope_theta, model.rope_scaling, build)
    return [
        AttentionSpec(
            layer,
            model.num_attention_heads,
            model.num_key_value_heads,
            model.head_dim,
            scale=model.head_dim**-0.5,
            cos_sin=rotary.cos_sin,
        )
        for layer in range(model.num_hidden_layers)
    ]


def _decode(work: KernelWork) -> Iterator[Case]:
    specs = _layers(work, max(work.contexts))
    for precision in work.kv_precisions:
        yield from _decode_in(precision, specs, work)


def _decode_in(precision: str, specs: list[AttentionSpec], work: KernelWork) -> Iterator[Case]:
    blocks_a_row = -(-max(work.contexts) // work.block_size)
    shape = work.cache_shape(max(work.sequences) * blocks_a_row * work.block_size, precision)
    forward = _bind_attention(precision, specs, shape, work)
    values_a_token = work.model.num_attention_heads * work.model.head_dim
    for rows, context in itertools.product(work.sequences, work.contexts):
        call = partial(_run_next, forward, rows_in_rotation(shape, rows, context, 1))
        num_bytes = rows * context * shape.block_bytes / shape.block_size / shape.num_layers
        operations = {"float32": 4.0 * rows * context * values_a_token}
        what = f"{rows} x {context} tokens"
        yield Case("decode", what, precision, rows, call, shape.num_layers, num_bytes, operations)


def _prefill(work: KernelWork) -> Iterator[Case]:
    specs = _layers(work, max(work.prefill))
    values_a_token = work.model.num_attention_heads * work.model.head_dim
    for precision in work.kv_precisions:
        shape = work.cache_shape(max(work.prefill) + work.block_size, precision)
        forward = _bind_attention(precision, specs, shape, work)
        for length in work.prefill:
            call = partial(_run_next, forward, rows_in_rotation(shape, 1, length, length))
            num_bytes = length * shape.block_bytes / shape.block_size / shape.num_layers
            operations = {"float32": 2.0 * values_a_token * length**2}
            what = f"{length} tokens"
            yield Case("prefill", what, precision, length, call, shape.num_layers, num_bytes, operations)


def _bind_attention(precision: str, specs: list[AttentionSpec], shape: CacheShape, work: KernelWork) -> ForwardPass:
    dtype = activation_dtype(precision)
    kernels = work.kernels(dtype, shape.dtype)
    return bind_attention(kernels, written_cache(kernels, shape), specs, dtype)


def _run_next(forward: ForwardPass, batches: Iterator[RaggedBatch]) -> None:
    forward.run(next(batches))


def _norms(work: KernelWork) -> Iterator[Case]:
    """Residual sum and norm, each of what the last one gave."""
    kernels, size = work.kernels(torch.float32), work.model.hidden_size
    weight = torch.ones(size)

    def normalise(hidden: Any, context: ForwardContext) -> Any:
        residual = hidden
        for _ in range(POINTWISE_COPIES):
            hidden, residual = kernels.rms_norm(hidden, weight, work.model.rms_norm_eps, residual)
        return hidden

    yield from _pointwise("norm", work, kernels, size, normalise, values_moved=4 * size)


def _activations(work: KernelWork) -> Iterator[Case]:
    kernels, size = work.kernels(torch.float32), work.model.intermediate_size

    def activate(gate_up: Any, context: ForwardContext) -> Any:
        for _ in range(POINTWISE_COPIES):
            activated = kernels.activation_and_mul(gate_up, "silu")
        return activated

    yield from _pointwise("activation", work, kernels, 2 * size, activate, values_moved=3 * size)


def _pointwise(
    kind: str,
    work: KernelWork,
    kernels: Kernels,
    width: int,
    operations: OperationChain,
    values_moved: int,
) -> Iterator[Case]:
    """`values_moved`: of a token, read and written."""
    forward = bind_operations(kernels, width, torch.float32, operations)
    for rows in work.rows:
        call = partial(forward.run, tokens(rows))
        yield Case(kind, f"width {width}", "float32", rows, call, POINTWISE_COPIES, 4.0 * rows * values_moved)


def _copies(work: KernelWork) -> Iterator[Case]:
    """Whole blocks from one half of a cache to the other."""
    for precision in work.kv_precisions:
        shape = work.cache_shape(work.block_size, precision)
        num_blocks = max(1, COPIED_BYTES // shape.block_bytes)
        shape = work.cache_shape(2 * num_blocks * work.block_size, precision)
        kernels = work.kernels(activation_dtype(precision), shape.dtype)
        order = torch.randperm(2 * num_blocks, generator=torch.Generator().manual_seed(3))
        cache = written_cache(kernels, shape)
        call = partial(kernels.copy_blocks, cache, cache, order[:num_blocks], order[num_blocks:])
        what = f"{num_blocks} blocks of {shape.block_bytes:,} B"
        yield Case("copy", what, precision, num_blocks, call, num_blocks, 2.0 * shape.block_bytes)


_SOURCES = {
    "product": _products,
    "logits": _logits,
    "decode": _decode,
    "prefill": _prefill,
    "norm": _norms,
    "activation": _activations,
    "copy": _copies,
}
