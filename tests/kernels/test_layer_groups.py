"""Attention over several layer groups: the bits of one group with the same layers, whatever lies behind the windows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from octavo.layer_groups import Full, LayerGroup, LayerGroups, Window, one_group

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_KV_HEADS = 2
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]
BACKENDS = ["reference", "avx512", "avx2", "portable"]
WIDE = LayerGroup(Window(20), (0, 2))
FULL = LayerGroup(Full(), (1, 4))
NARROW = LayerGroup(Window(7), (3,))
GROUPS = LayerGroups((WIDE, FULL, NARROW), layers_a_group=2)
"""Of five layers; the last group's records have an empty place."""
TWO_GROUPS = LayerGroups((LayerGroup(Window(300), (1,)), LayerGroup(Window(20), (0,))), layers_a_group=1)
STEPS = [[40], [1], [7, 1], [1, 30, 3]]
"""Tokens a row and step, in rotation."""


def kernels_for(name: str) -> Kernels:
    try:
        return ReferenceKernels() if name == "reference" else CpuKernels(name)
    except ValueError as error:
        pytest.skip(str(error))


class Stack:
    """A model of attentions, each of products of what came before it, so that any layer's error reaches the result."""

    has_head = True

    def __init__(self, kernels: Kernels, layer_groups: LayerGroups, num_tokens: int, head_dim: int) -> None:
        generator = torch.Generator().manual_seed(0)
        width = 2 * NUM_KV_HEADS * head_dim
        self.kernels = kernels
        self.table = torch.randn(num_tokens, width, generator=generator)
        self.weights = [
            torch.randn(2 * width, width, generator=generator) * width**-0.5 for _ in range(layer_groups.num_layers)
        ]
        self.identity = torch.eye(width)
        kinds = {layer: group.kind for group in layer_groups.groups for layer in group.layers}
        self.specs = [
            AttentionSpec(layer, 2 * NUM_KV_HEADS, NUM_KV_HEADS, head_dim, scale=head_dim**-0.5, kind=kinds[layer])
            for layer in range(layer_groups.num_layers)
        ]

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        hidden = self.kernels.embedding(context.batch.token_ids, self.table)
        for weight, spec in zip(self.weights, self.specs, strict=True):
            attended = self.kernels.attention(self.kernels.linear(hidden, weight), context, spec)
            hidden = self.kernels.add(hidden, attended)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.kernels.linear(hidden, self.identity)


@dataclass(frozen=True)
class Setting:
    backend: str
    dtype: torch.dtype = torch.float32
    block_size: int = 16
    head_dim: int = 16
    lengths: tuple[int, ...] = (70, 33, 5, 120)


class Rows:
    """Sequences in shuffled blocks of one pool, a table for each group of `laid_out`.

    Slots that nothing is written to hold NaN. Where `overwrites`, so do blocks that lie wholly behind a window, and the
    tables have any blocks in their place.
    """

    def __init__(self, setting: Setting, layers: LayerGroups, laid_out: LayerGroups, *, overwrites: bool) -> None:
        kernels, size = kernels_for(setting.backend), setting.block_size
        self.rng = np.random.default_rng(1)
        self.size, self.lengths, self.groups, self.overwrites = size, setting.lengths, laid_out, overwrites
        self.num_done = [0] * len(self.lengths)
        widest = -(-max(self.lengths) // size) + 1
        pool = len(laid_out.groups) * len(self.lengths) * widest
        self.tables = self.rng.permutation(pool).reshape(len(laid_out.groups), len(self.lengths), widest)
        self.num_behind = np.zeros(self.tables.shape[:2], np.int64)
        shape = CacheShape(pool, laid_out, size, NUM_KV_HEADS, setting.head_dim, setting.dtype)
        self.cache = kernels.allocate_cache(shape, torch.device("cpu"))
        self.cache.records.fill_(0xFF)  # NaN in every dtype, and in scales
        model: Any = Stack(kernels, layers, sum(self.lengths), setting.head_dim)
        self.forward = kernels.bind(model, self.cache)

    def step(self, num_new: dict[int, int]) -> dict[int, torch.Tensor]:
        """Compute some rows' next tokens together: their last hidden states by row."""
        batch = self.batch(num_new)
        self.forward.run(batch)
        out = self.forward.logits(np.arange(len(batch.token_ids))).clone()
        for row, count in num_new.items():
            self.num_done[row] += count
        return dict(zip(num_new, torch.split(out, list(num_new.values())), strict=True))

    def batch(self, num_new: dict[int, int]) -> RaggedBatch:
        """The step's, after what lies behind its windows has been overwritten."""
        if self.overwrites:
            self._overwrite(list(num_new))
        rows = np.repeat(list(num_new), list(num_new.values()))
        starts = [self.num_done[row] for row in num_new]
        positions = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, num_new.values(), strict=True)])
        slots = self.tables[:, rows, positions // self.size] * self.size + positions % self.size
        return RaggedBatch(
            token_ids=torch.tensor(np.cumsum([0, *self.lengths])[rows] + positions),
            positions=torch.tensor(positions),
            slots=torch.tensor(slots),
            query_starts=torch.tensor(np.cumsum([0, *num_new.values()])),
            context_lens=torch.tensor(np.add(starts, list(num_new.values()))),
            tables=torch.tensor(list(num_new)),
            block_tables=torch.tensor(self.tables),
        )

    def _overwrite(self, rows: list[int]) -> None:
        for group, kind in enumerate(self.groups.kinds):
            for row in rows:
                behind = kind.first_seen(self.num_done[row]) // self.size
                table = self.tables[group, row]
                self.cache.records[table[self.num_behind[group, row] : behind]] = 0xFF
                table[:behind] = self.rng.integers(0, self.tables.size, behind)
                self.num_behind[group, row] = behind


def results(rows: Rows, sizes: list[int]) -> Iterator[torch.Tensor]:
    """Each step's, the rows' below one another, until all tokens are computed."""
    step = 0
    while left := {r: n - rows.num_done[r] for r, n in enumerate(rows.lengths) if n > rows.num_done[r]}:
        new = {row: min(count, sizes[(step + row) % len(sizes)]) for row, count in left.items()}
        yield torch.cat(list(rows.step(new).values()))
        step += 1


def assert_alike(setting: Setting, layers: LayerGroups, sizes: list[int]) -> None:
    together = Rows(setting, layers, one_group(layers.num_layers), overwrites=False)
    apart = Rows(setting, layers, layers, overwrites=True)
    for ours, expected in zip(results(apart, sizes), results(together, sizes), strict=True):
        assert ours.isfinite().all()
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [1, 6, 16, 48])
def test_several_groups_give_the_bits_of_one_whatever_lies_behind_their_windows(
    backend: str, dtype: torch.dtype, block_size: int
) -> None:
    for sizes in STEPS:
        assert_alike(Setting(backend, dtype, block_size), GROUPS, sizes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block_size", [6, 16, 32])
def test_windows_over_many_chunks_give_the_bits_of_one_group(backend: str, block_size: int) -> None:
    setting = Setting(backend, torch.bfloat16, block_size, head_dim=20, lengths=(900, 300))
    for sizes in ([850, 1], [270, 31]):
        assert_alike(setting, TWO_GROUPS, sizes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_with_fewer_layers_leaves_its_last_place_untouched(backend: str) -> None:
    rows = Rows(Setting(backend), GROUPS, GROUPS, overwrites=False)
    rows.step({0: 40, 3: 11})
    places = rows.cache.records.view(rows.cache.shape.num_blocks, 2, -1)
    for group, num_used in enumerate([2, 2, 1]):
        written = rows.tables[group, 0, :2]
        assert (places[written, :num_used] != 0xFF).any(dim=-1).all()
        assert (places[written, num_used:] == 0xFF).all()


def test_the_cpp_kernels_refuse_a_step_without_the_tables_of_a_group() -> None:
    rows = Rows(Setting("portable"), GROUPS, GROUPS, overwrites=False)
    batch = rows.batch({0: 5, 1: 3})
    for fewer in (
        replace(batch, slots=batch.slots[:2], block_tables=batch.block_tables[:2]),
        replace(batch, slots=batch.slots[:2]),
        replace(batch, slots=batch.slots[:, :7].contiguous()),
        replace(batch, block_tables=batch.block_tables[:, :1].contiguous()),
        replace(batch, tables=batch.tables[:1]),
        replace(batch, tables=batch.tables - 1),
    ):
        with pytest.raises(ValueError, match="layer group"):
            rows.forward.run(fewer)
