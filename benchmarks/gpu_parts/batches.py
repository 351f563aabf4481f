"""Caches and ragged batches for kernels that are called by themselves."""

import torch

from gpu_parts.sizes import Sizes
from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.layout import scales, vectors
from octavo.layer_groups import FULL, LayerKind

Rows = list[tuple[int, int]]
"""(context, new tokens) of each row."""


def make_cache(device: torch.device, shape: CacheShape) -> KVCache:
    """A cache of random keys and values."""
    cache = TritonKernels().allocate_cache(shape, device)
    values, own_scales = vectors(cache), scales(cache)
    if own_scales is not None:
        values.random_(-127, 128)
        own_scales.uniform_(0.01, 0.03)
    elif shape.dtype.itemsize == 1:
        values.copy_(torch.randn(values.shape, device=device))
    else:
        values.normal_()
    return cache


def make_batch(cache: KVCache, rows: Rows) -> tuple[RaggedBatch, BatchExtent]:
    """A batch whose rows lie in blocks scattered over the whole cache."""
    device, size = cache.records.device, cache.shape.block_size
    counts = [-(-context // size) for context, _ in rows]
    ids = torch.randperm(cache.shape.num_blocks, device=device)[: sum(counts)].split(counts)
    positions = [torch.arange(context - new, context, device=device) for context, new in rows]
    slots = [own[each // size] * size + each % size for own, each in zip(ids, positions, strict=True)]
    new = [each for _, each in rows]
    extent = BatchExtent(max(context for context, _ in rows), max(new), min(new))
    batch = RaggedBatch(
        token_ids=torch.cat(positions),
        positions=torch.cat(positions),
        slots=torch.cat(slots).unsqueeze(0),
        query_starts=torch.tensor([0, *new], device=device).cumsum(0),
        context_lens=torch.tensor([context for context, _ in rows], device=device),
        tables=torch.arange(len(rows), device=device),
        block_tables=torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True).unsqueeze(0),
        extent=extent,
    )
    return batch, extent


def only(batch: RaggedBatch, row: int, num_new: int) -> tuple[slice, RaggedBatch]:
    """A batch of the last new tokens of one row, alone, and where these are in the whole one."""
    end = int(batch.query_starts[row + 1])
    tokens = slice(end - num_new, end)
    context = batch.context_lens[row : row + 1]
    alone = RaggedBatch(
        token_ids=batch.token_ids[tokens],
        positions=batch.positions[tokens],
        slots=batch.slots[:, tokens],
        query_starts=torch.tensor([0, num_new], device=context.device),
        context_lens=context,
        tables=batch.tables[row : row + 1],
        block_tables=batch.block_tables,
        extent=BatchExtent(int(context), num_new, num_new),
    )
    return tokens, alone


def spec_of(
    sizes: Sizes, layer: int, head_dim: int | None = None, kind: LayerKind = FULL, softcap: float | None = None
) -> AttentionSpec:
    """The attention of one layer."""
    width = head_dim or sizes.head_dim
    return AttentionSpec(layer, sizes.num_heads, sizes.num_kv_heads, width, width**-0.5, kind=kind, softcap=softcap)


def random_query(sizes: Sizes, batch: RaggedBatch, dtype: torch.dtype, head_dim: int | None = None) -> torch.Tensor:
    """Of every token and head."""
    shape = (len(batch.positions), sizes.num_heads, head_dim or sizes.head_dim)
    return torch.randn(shape, device=batch.positions.device).to(dtype)
