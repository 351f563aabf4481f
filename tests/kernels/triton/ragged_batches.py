"""Ragged batches over a paged cache, with what the reference makes of them."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import CachedVectors
from octavo.kernels.triton.layout import scales, vectors
from octavo.layer_groups import Full, LayerKind, Window, group_layers

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
EDGES = (16, 32, 48, 256)
"""Block sizes, and that of a chunk: rows are drawn to end beside their multiples."""


@dataclass(frozen=True)
class Row:
    """One row of a step."""

    num_cached: int
    num_new: int

    @property
    def length(self) -> int:
        return self.num_cached + self.num_new


@dataclass(frozen=True)
class Heads:
    """What all rows of a case share. Layers are in groups of two; the one under test is the second of its group."""

    num_kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    block_size: int = 16
    dtype: torch.dtype = torch.float16
    cache_dtype: torch.dtype | None = None
    """None: as `dtype`."""
    window: int | None = None
    is_causal: bool = True
    """Of the layers that see all."""
    softcap: float | None = None
    layer: int | None = None
    """Under test; by default the last."""

    @property
    def layer_kinds(self) -> list[LayerKind]:
        """Two layers that see all; and four with the window, in two groups."""
        return [*[Full(self.is_causal)] * 2, *([Window(self.window)] * 4 if self.window else [])]

    @property
    def spec(self) -> AttentionSpec:
        layer = len(self.layer_kinds) - 1 if self.layer is None else self.layer % len(self.layer_kinds)
        return AttentionSpec(
            layer=layer,
            num_heads=self.num_kv_heads * self.group,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            kind=self.layer_kinds[layer],
            softcap=self.softcap,
        )


class Case:
    """A step's batch, its cache in the reference's layout and in Triton's, and queries.

    Slots that no row may see hold NaN: those past a row's end, and blocks that lie wholly behind its window. Each row
    has `num_shared` first blocks in common with the row before it, none by default.
    """

    def __init__(self, heads: Heads, rows: list[Row], seed: int = 0, num_shared: Sequence[int] = ()) -> None:
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.heads = heads
        groups = group_layers(heads.layer_kinds)
        num_groups, size = len(groups.groups), heads.block_size
        counts = [-(-row.length // size) for row in rows]
        ids = iter(rng.permutation(sum(counts) * num_groups + 1)[: sum(counts) * num_groups])
        tables = np.zeros((num_groups, len(rows) + 1, max(counts) + 1), np.int64)
        places = rng.permutation(len(rows) + 1)[: len(rows)]
        for group in range(num_groups):
            for place, count in zip(places, counts, strict=True):
                tables[group, place, :count] = [next(ids) for _ in range(count)]
            for number, count in enumerate(num_shared[1:], start=1):
                tables[group, places[number], :count] = tables[group, places[number - 1], :count]
        positions = np.concatenate([np.arange(row.num_cached, row.length) for row in rows])
        row_places = places.repeat([row.num_new for row in rows])
        self.batch = RaggedBatch(
            token_ids=torch.zeros(len(positions), dtype=torch.int64),
            positions=torch.tensor(positions),
            slots=torch.tensor(
                np.ascontiguousarray(tables[:, row_places, positions // size] * size + positions % size)
            ),
            query_starts=torch.tensor(np.cumsum([0, *(row.num_new for row in rows)])),
            context_lens=torch.tensor([row.length for row in rows]),
            tables=torch.tensor(places),
            block_tables=torch.tensor(tables),
        )
        counts_new = [row.num_new for row in rows]
        self.extent = BatchExtent(max(row.length for row in rows), max(counts_new), min(counts_new))
        cache_dtype, num_blocks = heads.cache_dtype or heads.dtype, sum(counts) * num_groups + 1
        shape = CacheShape(num_blocks, groups, size, heads.num_kv_heads, heads.head_dim, cache_dtype)
        self.reference = ReferenceKernels().allocate_cache(shape, CPU)
        self.cache = KVCache(shape, torch.empty_like(self.reference.records))
        self._fill(rows, places)
        num_heads = heads.num_kv_heads * heads.group
        self.query = torch.randn(len(positions), num_heads, heads.head_dim).to(heads.dtype)

    def _fill(self, rows: list[Row], places: np.ndarray) -> None:
        cached, shape, size = CachedVectors(self.reference), self.cache.shape, self.heads.block_size
        _fill_with_nan(cached)
        for row, place in zip(rows, places, strict=True):
            for table, kind in zip(self.batch.block_tables[:, place], shape.layer_groups.kinds, strict=True):
                seen = torch.arange(kind.first_seen(row.num_cached) // size * size, row.length)
                for layer_place in range(shape.num_layers):
                    for part in range(2):
                        new = torch.randn(len(seen), shape.num_kv_heads, shape.head_dim)
                        cached.write(layer_place, part, table[seen // size], seen % size, new)
        vectors(self.cache).copy_(cached.values.transpose(3, 4))
        own_scales = scales(self.cache)
        if own_scales is not None and cached.scales is not None:
            own_scales.copy_(cached.scales.transpose(3, 4))

    def only(self, row: int, num_new: int | None = None) -> "Case":
        """A step of one of the rows alone, with its last `num_new` tokens (all its new ones by default)."""
        batch, case = self.batch, copy.copy(self)
        start, end = batch.query_starts[row : row + 2].tolist()
        tokens = slice(start if num_new is None else end - num_new, end)
        case.batch = dataclasses.replace(
            batch,
            token_ids=batch.token_ids[tokens],
            positions=batch.positions[tokens],
            slots=batch.slots[:, tokens],
            query_starts=torch.tensor([0, tokens.stop - tokens.start]),
            context_lens=batch.context_lens[row : row + 1],
            tables=batch.tables[row : row + 1],
        )
        case.query = self.query[tokens]
        case.extent = BatchExtent(int(batch.context_lens[row]), tokens.stop - tokens.start)
        return case


def _fill_with_nan(cached: CachedVectors) -> None:
    if cached.scales is not None:
        cached.values.fill_(127)
        cached.scales.fill_(torch.nan)
    elif cached.values.dtype == FP8:
        cached.values.view(torch.uint8).fill_(0x7F)
    else:
        cached.values.fill_(torch.nan)


def examples(number: int) -> settings:
    """So many, the same in every run. The interpreter is too slow for failing ones to be made smaller."""
    return settings(max_examples=number, derandomize=True, database=None, phases=[Phase.generate])


cached_tokens = st.one_of(
    st.integers(0, 70),
    st.builds(
        lambda edge, times, past: max(0, edge * times + past - 1),
        st.sampled_from(EDGES),
        st.integers(1, 2),
        st.sampled_from([0, 1]),
    ),
)
"""Where one token is new, the context ends on an edge, or one past it."""
row = st.one_of(
    st.builds(Row, cached_tokens, st.just(1)), st.builds(Row, cached_tokens, st.sampled_from([2, 3, 5, 17, 33, 70]))
)
rows = st.lists(row, min_size=1, max_size=4)
dtypes = st.sampled_from([torch.float16, torch.float32, torch.bfloat16])
heads = st.builds(
    Heads,
    num_kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 3, 4, 7]),
    head_dim=st.sampled_from([16, 24, 64, 80, 128, 256]),
    block_size=st.sampled_from([1, 4, *EDGES]),
    dtype=dtypes,
    cache_dtype=st.sampled_from([None, None, torch.int8, FP8]),
    window=st.sampled_from([None, 1, 17, 40, 300]),
    softcap=st.sampled_from([None, 5.0]),
    layer=st.sampled_from([None, 1, 3]),
)
