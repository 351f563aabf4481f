"""Ragged batches over a paged cache, with what the reference makes of them."""

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from octavo.kernels.attention import AttentionSpec
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import CachedVectors
from octavo.kernels.triton.layout import vectors
from octavo.layer_groups import FULL, LayerKind, Window, group_layers

CPU = torch.device("cpu")


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
    """What all rows of a case share. The layer under test is the second of its group."""

    num_kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    block_size: int = 16
    dtype: torch.dtype = torch.float16
    window: int | None = None
    softcap: float | None = None

    @property
    def layer_kinds(self) -> list[LayerKind]:
        """Two layers that see all, and two with the window."""
        return [FULL, FULL, *([Window(self.window)] * 2 if self.window else [])]

    @property
    def spec(self) -> AttentionSpec:
        return AttentionSpec(
            layer=3 if self.window else 1,
            num_heads=self.num_kv_heads * self.group,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            kind=Window(self.window) if self.window else FULL,
            softcap=self.softcap,
        )


class Case:
    """A step's batch, its cache in the reference's layout and in Triton's, and queries.

    Slots that no row may see hold NaN: those past a row's end, and blocks that lie wholly behind its window.
    """

    def __init__(self, heads: Heads, rows: list[Row], seed: int = 0) -> None:
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
        positions = [position for row in rows for position in range(row.num_cached, row.length)]
        row_places = [place for row, place in zip(rows, places, strict=True) for _ in range(row.num_new)]
        slots = [
            [tables[group, place, p // size] * size + p % size for place, p in zip(row_places, positions, strict=True)]
            for group in range(num_groups)
        ]
        self.batch = RaggedBatch(
            token_ids=torch.zeros(len(positions), dtype=torch.int64),
            positions=torch.tensor(positions),
            slots=torch.tensor(np.array(slots)),
            query_starts=torch.tensor(np.cumsum([0, *(row.num_new for row in rows)])),
            context_lens=torch.tensor([row.length for row in rows]),
            tables=torch.tensor(places),
            block_tables=torch.tensor(tables),
        )
        counts_new = [row.num_new for row in rows]
        self.extent = BatchExtent(max(row.length for row in rows), max(counts_new), min(counts_new))
        shape = CacheShape(sum(counts) * num_groups + 1, groups, size, heads.num_kv_heads, heads.head_dim, heads.dtype)
        self.reference = ReferenceKernels().allocate_cache(shape, CPU)
        self.cache = KVCache(shape, torch.empty_like(self.reference.records))
        self._fill(rows, places)
        num_heads = heads.num_kv_heads * heads.group
        self.query = torch.randn(len(positions), num_heads, heads.head_dim).to(heads.dtype)

    def _fill(self, rows: list[Row], places: np.ndarray) -> None:
        values = CachedVectors(self.reference).values
        values.fill_(torch.nan)
        size, window = self.heads.block_size, self.heads.window
        for row, place in zip(rows, places, strict=True):
            first = max(0, row.num_cached - window + 1) if window else 0
            for group, table in enumerate(self.batch.block_tables[:, place]):
                for position in range(first // size * size if group else 0, row.length):
                    slot = values[table[position // size], :, :, position % size]
                    slot.copy_(torch.randn(slot.shape))
        vectors(self.cache).copy_(values.transpose(3, 4))

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
