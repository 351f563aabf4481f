"""Paged attention in plain torch: the KV cache as views of its records, and a ragged batch cut into tiles of rows that
are attended together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import NamedTuple

import torch

from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.quantized import quantize_rows, to_fp8
from octavo.layer_groups import FULL, LayerKind

KEYS, VALUES = 0, 1

GATHERED_BYTES = 4 << 20
"""Keys and values gathered at a time. Small enough to stay in a processor's cache between gathering and use."""
SCORE_BYTES = 16 << 20
"""Scores held at a time; long prefills are cut into tiles of queries to stay under it."""
PADDING_LIMIT = 2
"""Rows attended together differ in blocks by no more than this factor."""


class CachedVectors:
    """The keys and values in a cache. A record is the vectors of its block, then, where they are int8, their scales.

    A layer's lie at its place in the records of its group (`LayerGroups.place`).
    """

    def __init__(self, cache: KVCache) -> None:
        shape = cache.shape
        vectors = (shape.num_blocks, shape.num_layers, 2, shape.block_size, shape.num_kv_heads)
        own_bytes = prod(vectors[1:]) * shape.head_dim * shape.dtype.itemsize
        own, rest = torch.split_with_sizes(cache.records, (own_bytes, shape.block_bytes - own_bytes), dim=1)
        self.values = own.view(shape.dtype).view(*vectors, shape.head_dim)
        """`[num_blocks, num_layers, 2, block_size, num_kv_heads, head_dim]`: keys, then values."""
        self.scales = rest.view(torch.float32).view(vectors) if shape.has_scales else None
        """`[num_blocks, num_layers, 2, block_size, num_kv_heads]` of an int8 cache."""
        self._stored = self.values.view(torch.uint8) if shape.dtype == torch.float8_e4m3fn else self.values
        """What is indexed: torch has few operations on fp8."""

    def write(self, place: int, part: int, blocks: torch.Tensor, offsets: torch.Tensor, new: torch.Tensor) -> None:
        """Put vectors `[num_tokens, num_kv_heads, head_dim]` into slots of one place, in the dtype of the cache."""
        if self.scales is not None:
            values, scales = quantize_rows(new.flatten(0, 1))
            self.scales[:, place, part].index_put_((blocks, offsets), scales.view(new.shape[:2]))
        else:
            values = to_fp8(new) if self.values.dtype == torch.float8_e4m3fn else new.to(self.values.dtype)
        own = self._stored[:, place, part]
        own.index_put_((blocks, offsets), values.view(new.shape).view(own.dtype))

    def read(self, place: int, part: int, blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The vectors at one place of some blocks: `[n, block_size, num_kv_heads, head_dim]` in `dtype`."""
        vectors = self._stored[:, place, part].index_select(0, blocks).view(self.values.dtype).to(dtype)
        if self.scales is not None:
            vectors *= self.scales[:, place, part].index_select(0, blocks).unsqueeze(-1)
        return vectors


class Span(NamedTuple):
    """Consecutive new tokens of one row that are attended at once, and the blocks that they can see."""

    row: int
    first_token: int
    """Index in the step's flat list."""
    num_queries: int
    first_position: int
    first_block: int
    """Logical: no query sees earlier blocks."""
    num_blocks: int
    num_tokens: int
    """The row's, those of earlier steps among them."""


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


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """What the layers of a step share: made once, by `prepare`."""

    shape: CacheShape
    cached: CachedVectors
    batch: RaggedBatch
    query_starts: list[int]
    context_lens: list[int]
    slot_blocks: torch.Tensor
    """`[num_groups, num_tokens]` int64: the physical block of each new token…"""
    slot_offsets: torch.Tensor
    """…and its slot in there."""
    tiles: dict[tuple[LayerKind, int, int], list[Tile]] = field(default_factory=dict)
    """By kind, layer group and number of heads: made when a layer first asks for them, and kept for those that
    follow."""


def prepare(batch: RaggedBatch, cache: KVCache) -> AttentionMetadata:
    """Bring the row lengths to the host once; all layers plan their tiles from them."""
    block_size = cache.shape.block_size
    return AttentionMetadata(
        cache.shape,
        CachedVectors(cache),
        batch,
        batch.query_starts.tolist(),
        batch.context_lens.tolist(),
        slot_blocks=batch.slots // block_size,
        slot_offsets=batch.slots % block_size,
    )


def write_kv(metadata: AttentionMetadata, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
    """Write the new tokens' K and V (`[num_tokens, num_kv_heads, head_dim]`) into their slots. No two share one."""
    layer_group, place = metadata.shape.layer_groups.place(layer)
    metadata.cached.write(place, KEYS, metadata.slot_blocks[layer_group], metadata.slot_offsets[layer_group], key)
    metadata.cached.write(place, VALUES, metadata.slot_blocks[layer_group], metadata.slot_offsets[layer_group], value)


def paged_attention(
    query: torch.Tensor,
    metadata: AttentionMetadata,
    layer: int,
    *,
    scale: float,
    kind: LayerKind = FULL,
    softcap: float | None = None,
) -> torch.Tensor:
    """Attention of the new tokens over their rows' blocks.

    Args:
        query: `[num_tokens, num_heads, head_dim]`; the rest as in `AttentionSpec`.

    Returns:
        `[num_tokens, num_heads, head_dim]`, the query's dtype. Sums are in float32, or float64 where the cache is.
    """
    num_tokens, num_heads, head_dim = query.shape
    layer_group, place = metadata.shape.layer_groups.place(layer)
    wide = accumulation_dtype(metadata.shape.dtype)
    # Heads come first so that each KV head's product over a tile is one batched product of plain strides.
    by_kv_head = (query.to(wide) * scale).view(num_tokens, metadata.shape.num_kv_heads, -1, head_dim)
    queries = by_kv_head.transpose(0, 1).contiguous()
    attended = torch.empty_like(queries)
    for tile in plan_tiles(metadata, kind, layer_group, num_heads):
        attended.index_copy_(1, tile.tokens, _attend(queries, metadata.cached, place, tile, softcap))
    return attended.transpose(0, 1).reshape(num_tokens, num_heads, head_dim).to(query.dtype)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums over values of `dtype` are kept in."""
    return torch.float32 if dtype.itemsize == 1 else torch.promote_types(dtype, torch.float32)


def _attend(
    queries: torch.Tensor, cached: CachedVectors, place: int, tile: Tile, softcap: float | None
) -> torch.Tensor:
    """Attention of one tile.

    Args:
        queries: `[num_kv_heads, num_tokens, group, head_dim]`, scaled.

    Returns:
        `[num_kv_heads, num_rows * num_queries, group, head_dim]` in the queries' dtype.
    """
    num_kv_heads, _, group, head_dim = queries.shape
    rows, width = tile.num_rows, tile.num_queries * group
    tile_queries = queries.index_select(1, tile.tokens).view(num_kv_heads, rows, width, head_dim)
    scores = queries.new_empty(num_kv_heads, rows, width, tile.num_keys)
    for head, head_keys in enumerate(_gather(cached, place, KEYS, tile, queries.dtype).unbind(2)):
        torch.bmm(tile_queries[head], head_keys.transpose(1, 2), out=scores[head])
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    by_query = scores.view(num_kv_heads, rows, tile.num_queries, group, tile.num_keys)
    by_query[..., tile.masked_from :].masked_fill_(tile.masked, -torch.inf)
    weights = scores.softmax(dim=-1)
    attended = torch.empty_like(tile_queries)
    for head, head_values in enumerate(_gather(cached, place, VALUES, tile, queries.dtype).unbind(2)):
        torch.bmm(weights[head], head_values, out=attended[head])
    return attended.view(num_kv_heads, -1, group, head_dim)


def _gather(cached: CachedVectors, place: int, part: int, tile: Tile, dtype: torch.dtype) -> torch.Tensor:
    """The tile's keys or values, `[num_rows, num_keys, num_kv_heads, head_dim]`.

    Slots that no query sees are made zero: a weight of zero would not hide a NaN there.
    """
    gathered = cached.read(place, part, tile.blocks, dtype)
    gathered.flatten(0, 1).index_fill_(0, tile.unseen, 0)
    return gathered.view(tile.num_rows, tile.num_keys, *gathered.shape[2:])


def plan_tiles(metadata: AttentionMetadata, kind: LayerKind, layer_group: int, num_heads: int) -> list[Tile]:
    """The step's tiles for layers of this group, kind and number of heads."""
    tiles = metadata.tiles.get((kind, layer_group, num_heads))
    if tiles is None:
        alike = _alike(_spans(metadata, kind, num_heads), metadata.shape, num_heads)
        tables = metadata.batch.block_tables[layer_group], metadata.batch.tables
        tiles = [_lay_out(spans, *tables, metadata.shape.block_size, kind) for spans in alike]
        metadata.tiles[kind, layer_group, num_heads] = tiles
    return tiles


def _spans(metadata: AttentionMetadata, kind: LayerKind, num_heads: int) -> list[Span]:
    """Cut each row's new tokens so that a span's scores stay under `SCORE_BYTES`."""
    block_size = metadata.shape.block_size
    score_bytes = num_heads * accumulation_dtype(metadata.shape.dtype).itemsize
    spans = []
    for row, (start, end) in enumerate(pairwise(metadata.query_starts)):
        context = metadata.context_lens[row]
        most_keys = -(-context // block_size) * block_size
        most_queries = max(1, SCORE_BYTES // (score_bytes * most_keys))
        for token in range(start, end, most_queries):
            num_queries = min(most_queries, end - token)
            first_position = context - (end - token)
            first_block = kind.first_seen(first_position) // block_size
            last_block = kind.last_seen(first_position + num_queries - 1, context) // block_size
            num_blocks = last_block + 1 - first_block
            spans.append(Span(row, token, num_queries, first_position, first_block, num_blocks, context))
    return spans


def _alike(spans: list[Span], shape: CacheShape, num_heads: int) -> list[list[Span]]:
    """Put spans with as many queries and about as many blocks together, within the bounds at the top of this module."""
    itemsize = accumulation_dtype(shape.dtype).itemsize
    slot_bytes = 2 * shape.num_kv_heads * shape.head_dim * itemsize
    alike: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.num_queries, span.num_blocks)):
        first = alike[-1][0] if alike else span
        padded_slots = (len(alike[-1]) + 1 if alike else 1) * span.num_blocks * shape.block_size
        fits = (
            bool(alike)
            and first.num_queries == span.num_queries
            and span.num_blocks <= PADDING_LIMIT * first.num_blocks
            and padded_slots * slot_bytes <= GATHERED_BYTES
            and padded_slots * span.num_queries * num_heads * itemsize <= SCORE_BYTES
        )
        if fits:
            alike[-1].append(span)
        else:
            alike.append([span])
    return alike


def _lay_out(
    spans: list[Span], block_tables: torch.Tensor, tables: torch.Tensor, block_size: int, kind: LayerKind
) -> Tile:
    """The index tensors of one tile.

    Args:
        block_tables: its layer group's, `[num_tables, max_blocks]`.
        tables: `[num_rows]`, where each row's is.
    """
    device = block_tables.device
    columns = torch.tensor(spans, device=device).unsqueeze(-1).unbind(1)
    rows, first_tokens, _, first_positions, first_blocks, _, _ = columns
    num_queries, num_blocks = spans[-1].num_queries, spans[-1].num_blocks
    offsets = torch.arange(num_queries, device=device)
    positions = first_positions + offsets
    logical_blocks = first_blocks + torch.arange(num_blocks, device=device)
    keys = first_blocks * block_size + torch.arange(num_blocks * block_size, device=device)
    last_seen = positions if kind.is_causal else _by_query(kind.last_seen, spans, device)
    unseen = keys > last_seen[:, -1:]
    masked_from = min(kind.last_seen(span.first_position, span.num_tokens) for span in spans) + 1
    first_seen = None
    if kind.most_seen is not None:
        first_seen = _by_query(lambda position, _: kind.first_seen(position), spans, device)
        unseen |= keys < first_seen[:, :1]
        masked_from = 0
    masked_keys, masked_after = keys[:, None, masked_from:], last_seen[:, :, None]
    masked = masked_keys > masked_after
    if first_seen is not None:
        masked |= masked_keys < first_seen[:, :, None]
    return Tile(
        num_rows=len(spans),
        num_queries=num_queries,
        num_keys=keys.shape[1],
        tokens=(first_tokens + offsets).flatten(),
        blocks=block_tables[tables[rows], logical_blocks.clamp_(max=block_tables.shape[1] - 1)].flatten(),
        unseen=unseen.flatten().nonzero().squeeze(1),
        masked_from=masked_from,
        masked=masked.unsqueeze(2),
    )


def _by_query(seen: Callable[[int, int], int], spans: list[Span], device: torch.device) -> torch.Tensor:
    """`[num_rows, num_queries]` int64: `seen(position, the row's number of tokens)` of each query of alike spans."""
    values = [
        [seen(span.first_position + offset, span.num_tokens) for offset in range(span.num_queries)] for span in spans
    ]
    return torch.tensor(values, device=device)
