"""The plain torch backend: every operation in its simplest right form, which faster backends are tested against."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from octavo.kernels.interface import CacheShape, KVCache, RaggedBatch

GATHERED_BYTES = 4 << 20
"""Keys and values gathered at a time. Small enough to stay in a processor's cache between gathering and use."""
SCORE_BYTES = 16 << 20
"""Scores held at a time; long prefills are cut into tiles of queries to stay under it."""
PADDING_LIMIT = 2
"""Rows attended together differ in blocks by no more than this factor."""


class Span(NamedTuple):
    """Consecutive new tokens of one row that are attended at once, and the blocks that they can see."""

    row: int
    first_token: int
    """Index in the step's flat list."""
    num_queries: int
    first_position: int
    first_block: int
    """Logical: earlier blocks are outside the window."""
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Tile:
    """Spans with equally many queries, attended in one batched product; shorter ones are padded to `num_keys`."""

    num_rows: int
    num_queries: int
    num_keys: int
    tokens: torch.Tensor
    """`[num_rows * num_queries]` int64, indices in the step's flat list."""
    blocks: torch.Tensor
    """`[num_rows * num_blocks]` int64 physical blocks."""
    unseen: torch.Tensor
    """`[num_unseen]` int64, gathered slots (of `num_rows * num_keys`) that no query may see.

    They may hold anything, NaN included.
    """
    masked_from: int
    """Every query sees all keys before this one."""
    masked: torch.Tensor
    """`[num_rows, num_queries, 1, num_keys - masked_from]` bool: the query may not see the key."""


@dataclass(slots=True)
class ReferenceStep:
    """What `ReferenceKernels.prepare` makes of a batch.

    Tiles depend on a layer's window: they are made when first asked for, and kept for the layers that follow.
    """

    batch: RaggedBatch
    query_starts: list[int]
    context_lens: list[int]
    slot_blocks: torch.Tensor
    slot_offsets: torch.Tensor
    tiles: dict[tuple[int | None, int], list[Tile]] = field(default_factory=dict)


class ReferenceKernels:
    """`kernels.interface.Kernels` in plain torch, on any device and for any floating-point cache."""

    name = "reference"

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. On the CPU it comes from calloc, so that a large pool costs nothing before it is used."""
        dimensions = (shape.num_blocks, shape.num_layers, 2, shape.block_size, shape.num_kv_heads, shape.head_dim)
        if device.type == "cpu":
            records = torch.from_numpy(np.zeros(shape.num_bytes, dtype=np.uint8)).view(shape.dtype).view(dimensions)
        else:
            records = torch.zeros(dimensions, dtype=shape.dtype, device=device)
        return KVCache(shape, records)

    def prepare(self, batch: RaggedBatch, cache: KVCache) -> ReferenceStep:
        """Bring the row lengths to the host once; all layers plan their tiles from them."""
        block_size = cache.shape.block_size
        return ReferenceStep(
            batch,
            batch.query_starts.tolist(),
            batch.context_lens.tolist(),
            slot_blocks=batch.slots // block_size,
            slot_offsets=batch.slots % block_size,
        )

    def write_kv(self, cache: KVCache, layer: int, key: torch.Tensor, value: torch.Tensor, step: ReferenceStep) -> None:
        """Write the new tokens' K and V (`[num_tokens, num_kv_heads, head_dim]`) into their slots, in the dtype of
        the cache. No two tokens of a step share a slot."""
        for part, new in enumerate((key, value)):
            cache.records[:, layer, part].index_put_((step.slot_blocks, step.slot_offsets), new.to(cache.records.dtype))

    def paged_attention(
        self,
        query: torch.Tensor,
        cache: KVCache,
        layer: int,
        step: ReferenceStep,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Causal attention of the new tokens over their rows' blocks; `Kernels.paged_attention` gives the shapes."""
        num_tokens, num_heads, head_dim = query.shape
        num_kv_heads = cache.shape.num_kv_heads
        wide = _accumulation_dtype(cache.shape.dtype)
        # Heads come first so that each KV head's product over a tile is one batched product of plain strides.
        queries = (query.to(wide) * scale).view(num_tokens, num_kv_heads, -1, head_dim).transpose(0, 1).contiguous()
        attended = torch.empty_like(queries)
        keys, values = cache.records[:, layer, 0], cache.records[:, layer, 1]
        for tile in plan_tiles(step, cache.shape, window, num_heads):
            attended.index_copy_(1, tile.tokens, _attend(queries, keys, values, tile, softcap))
        return attended.transpose(0, 1).reshape(num_tokens, num_heads, head_dim).to(query.dtype)

    def copy_blocks(self, cache: KVCache, sources: torch.Tensor, destinations: torch.Tensor) -> None:
        """Copy whole records (`[n]` int64 block ids each)."""
        cache.records.index_copy_(0, destinations, cache.records.index_select(0, sources))

    def rms_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` and normalise (Zhang and Sennrich, Root Mean Square Layer Normalization, 2019).

        As in Hugging Face's LlamaRMSNorm, 16-bit input is normalised in float32 and rounded to its own dtype before
        the product with `weight`.
        """
        total = hidden if residual is None else hidden + residual
        normalised = functional.rms_norm(total.to(_accumulation_dtype(total.dtype)), total.shape[-1:], eps=eps)
        return normalised.to(total.dtype) * weight, total

    def rotary(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary position embedding (Su et al., RoFormer, 2021), computed in the wider of the two dtypes."""
        cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
        return _rotate(query, cos, sin), _rotate(key, cos, sin)

    def silu_and_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`: silu(first half) * second half (Shazeer, 2020)."""
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate `heads` `[num_tokens, heads, head_dim]` by angles given as `[num_tokens, 1, rotary_dim / 2]`."""
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    rotated = (first * cos - second * sin, second * cos + first * sin, heads[..., 2 * half :])
    return torch.cat(rotated, dim=-1).to(heads.dtype)


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tile: Tile, softcap: float | None
) -> torch.Tensor:
    """Attention of one tile.

    Args:
        queries: `[num_kv_heads, num_tokens, group, head_dim]`, scaled.
        keys, values: `[num_blocks, block_size, num_kv_heads, head_dim]`, one layer of the cache.

    Returns:
        `[num_kv_heads, num_rows * num_queries, group, head_dim]` in the queries' dtype.
    """
    num_kv_heads, _, group, head_dim = queries.shape
    rows, width = tile.num_rows, tile.num_queries * group
    tile_queries = queries.index_select(1, tile.tokens).view(num_kv_heads, rows, width, head_dim)
    tile_keys = _gather(keys, tile, queries.dtype)
    scores = queries.new_empty(num_kv_heads, rows, width, tile.num_keys)
    for head, head_keys in enumerate(tile_keys.unbind(2)):
        torch.bmm(tile_queries[head], head_keys.transpose(1, 2), out=scores[head])
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    by_query = scores.view(num_kv_heads, rows, tile.num_queries, group, tile.num_keys)
    by_query[..., tile.masked_from :].masked_fill_(tile.masked, -torch.inf)
    weights = scores.softmax(dim=-1)
    tile_values = _gather(values, tile, queries.dtype)
    attended = torch.empty_like(tile_queries)
    for head, head_values in enumerate(tile_values.unbind(2)):
        torch.bmm(weights[head], head_values, out=attended[head])
    return attended.view(num_kv_heads, -1, group, head_dim)


def _gather(layer_slots: torch.Tensor, tile: Tile, dtype: torch.dtype) -> torch.Tensor:
    """The tile's keys or values, `[num_rows, num_keys, num_kv_heads, head_dim]`.

    Slots that no query sees are made zero: a weight of zero would not hide a NaN there.
    """
    gathered = layer_slots.index_select(0, tile.blocks).to(dtype)
    gathered.flatten(0, 1).index_fill_(0, tile.unseen, 0)
    return gathered.view(tile.num_rows, tile.num_keys, *layer_slots.shape[2:])


def plan_tiles(step: ReferenceStep, shape: CacheShape, window: int | None, num_heads: int) -> list[Tile]:
    """The step's tiles for layers with this window and number of heads."""
    tiles = step.tiles.get((window, num_heads))
    if tiles is None:
        spans = _spans(step, shape, window, num_heads)
        tiles = [_lay_out(group, step.batch, shape.block_size, window) for group in _group(spans, shape, num_heads)]
        step.tiles[window, num_heads] = tiles
    return tiles


def _spans(step: ReferenceStep, shape: CacheShape, window: int | None, num_heads: int) -> list[Span]:
    """Cut each row's new tokens so that a span's scores stay under `SCORE_BYTES`."""
    block_size = shape.block_size
    score_bytes = num_heads * _accumulation_dtype(shape.dtype).itemsize
    spans = []
    for row, (start, end) in enumerate(pairwise(step.query_starts)):
        context = step.context_lens[row]
        most_keys = -(-context // block_size) * block_size
        most_queries = max(1, SCORE_BYTES // (score_bytes * most_keys))
        for token in range(start, end, most_queries):
            num_queries = min(most_queries, end - token)
            first_position = context - (end - token)
            first_block = 0 if window is None else max(0, first_position - window + 1) // block_size
            last_block = (first_position + num_queries - 1) // block_size
            spans.append(Span(row, token, num_queries, first_position, first_block, last_block + 1 - first_block))
    return spans


def _group(spans: list[Span], shape: CacheShape, num_heads: int) -> list[list[Span]]:
    """Put spans with as many queries and about as many blocks together, within the bounds at the top of this module."""
    itemsize = _accumulation_dtype(shape.dtype).itemsize
    slot_bytes = 2 * shape.num_kv_heads * shape.head_dim * itemsize
    groups: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.num_queries, span.num_blocks)):
        first = groups[-1][0] if groups else span
        padded_slots = (len(groups[-1]) + 1 if groups else 1) * span.num_blocks * shape.block_size
        fits = (
            bool(groups)
            and first.num_queries == span.num_queries
            and span.num_blocks <= PADDING_LIMIT * first.num_blocks
            and padded_slots * slot_bytes <= GATHERED_BYTES
            and padded_slots * span.num_queries * num_heads * itemsize <= SCORE_BYTES
        )
        if fits:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _lay_out(spans: list[Span], batch: RaggedBatch, block_size: int, window: int | None) -> Tile:
    """The index tensors of one tile."""
    device = batch.block_tables.device
    columns = torch.tensor(spans, device=device).unsqueeze(-1).unbind(1)
    rows, first_tokens, _, first_positions, first_blocks, _ = columns
    num_queries, num_blocks = spans[-1].num_queries, spans[-1].num_blocks
    offsets = torch.arange(num_queries, device=device)
    positions = first_positions + offsets
    logical_blocks = first_blocks + torch.arange(num_blocks, device=device)
    keys = first_blocks * block_size + torch.arange(num_blocks * block_size, device=device)
    unseen = keys > positions[:, -1:]
    masked_from = min(span.first_position for span in spans) + 1
    if window is not None:
        unseen |= keys <= positions[:, :1] - window
        masked_from = 0
    masked_keys, masked_positions = keys[:, None, masked_from:], positions[:, :, None]
    masked = masked_keys > masked_positions
    if window is not None:
        masked |= masked_keys <= masked_positions - window
    return Tile(
        num_rows=len(spans),
        num_queries=num_queries,
        num_keys=keys.shape[1],
        tokens=(first_tokens + offsets).flatten(),
        blocks=batch.block_tables[rows, logical_blocks.clamp_(max=batch.block_tables.shape[1] - 1)].flatten(),
        unseen=unseen.flatten().nonzero().squeeze(1),
        masked_from=masked_from,
        masked=masked.unsqueeze(2),
    )
