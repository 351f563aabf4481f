"""The C++ attention against the reference, on every instruction set, and against itself on every path, bit for bit."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import CacheShape, KVCache
from octavo.kernels.cpu import CpuKernels
from octavo.kernels.interface import Kernels
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.reference_attention import AttentionMetadata, write_kv
from octavo.layer_groups import Full, Window, one_group

CPU = torch.device("cpu")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
INSTRUCTION_SETS = ["avx512", "avx2", "portable"]  # avx512bf16 attends as avx512 does
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
"""Of attention over the same rounded K and V, summed in float32 by both backends."""
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""Of keys. A normalised one may lie so between two numbers that its last bit in float32 decides which it becomes."""


def kernels_for(name: str, num_threads: int | None = None) -> CpuKernels:
    try:
        return CpuKernels(name, num_threads)
    except ValueError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Shape:
    """One layer's attention and the cache under it."""

    num_kv_heads: int = 2
    group: int = 2
    head_dim: int = 16
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    window: int | None = None
    softcap: float | None = None
    rotary_dim: int = 0
    normalises: bool = False
    num_layers: int = 2
    layer: int = 1
    is_causal: bool = True

    @property
    def width(self) -> int:
        return (self.group + 2) * self.num_kv_heads * self.head_dim

    @property
    def spec(self) -> AttentionSpec:
        cos_sin = None
        if self.rotary_dim:
            angles = torch.outer(torch.arange(4096.0), 100.0 ** -torch.linspace(0, 1, self.rotary_dim // 2))
            cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
        query_norm, key_norm = torch.linspace(-1, 2, 2 * self.head_dim).chunk(2) if self.normalises else (None, None)
        return AttentionSpec(
            self.layer,
            self.group * self.num_kv_heads,
            self.num_kv_heads,
            self.head_dim,
            scale=self.head_dim**-0.5,
            kind=Full(self.is_causal) if self.window is None else Window(self.window, self.is_causal),
            softcap=self.softcap,
            query_norm=query_norm,
            key_norm=key_norm,
            norm_eps=0.1,
            cos_sin=cos_sin,
        )


@dataclass
class AttentionModel:
    """A model that is one attention: a token's id is its row of `qkv`, and the head is the identity."""

    has_head = True

    kernels: Kernels
    spec: AttentionSpec
    qkv: torch.Tensor
    identity: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.qkv = self.qkv.clone()
        self.identity = torch.eye(self.spec.num_heads * self.spec.head_dim)

    def __call__(self, context: ForwardContext) -> torch.Tensor:
        return self.kernels.attention(self.kernels.embedding(context.batch.token_ids, self.qkv), context, self.spec)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.kernels.linear(hidden, self.identity)


class Rows:
    """Sequences with tokens of their own, in shuffled blocks of a cache whose other slots hold NaN. The query of the
    first one's last token may have something that is not finite."""

    def __init__(
        self,
        kernels: Kernels,
        shape: Shape,
        lengths: list[int],
        *,
        seed: int = 0,
        poison: bool = True,
        broken_query: float = 0.0,
    ) -> None:
        self.shape = shape
        rng = np.random.default_rng(seed)
        self.num_done = [0] * len(lengths)
        starts = np.cumsum([0, *lengths])
        self.token_ids = [range(start, end) for start, end in pairwise(starts)]
        qkv = torch.from_numpy(rng.normal(size=(int(starts[-1]), shape.width))).to(torch.float32)
        qkv[lengths[0] - 1, 0] += broken_query
        num_blocks = [-(-length // shape.block_size) for length in lengths]
        pool = sum(num_blocks) + 2
        shuffled = rng.permutation(pool)
        self.tables = np.split(shuffled[: sum(num_blocks)], np.cumsum(num_blocks)[:-1])
        cache_shape = CacheShape(
            pool, one_group(shape.num_layers), shape.block_size, shape.num_kv_heads, shape.head_dim, shape.dtype
        )
        cache = kernels.allocate_cache(cache_shape, CPU)
        if poison:
            cache.records.view(torch.uint8).fill_(0xFF)  # NaN in every dtype, and in scales
        self.cache = cache
        self.forward = kernels.bind(AttentionModel(kernels, shape.spec, qkv), cache)

    def step(self, num_new: dict[int, int]) -> dict[int, torch.Tensor]:
        """Compute some rows' next tokens together: `[num_new, num_heads * head_dim]` by row."""
        size = self.shape.block_size
        spans = {row: range(self.num_done[row], self.num_done[row] + count) for row, count in num_new.items()}
        widest = max(len(self.tables[row]) for row in num_new)
        positions = [position for span in spans.values() for position in span]
        slots = [int(self.tables[row][p // size]) * size + p % size for row, span in spans.items() for p in span]
        batch = RaggedBatch(
            token_ids=torch.tensor([self.token_ids[row][p] for row, span in spans.items() for p in span]),
            positions=torch.tensor(positions),
            slots=torch.tensor([slots]),
            query_starts=torch.tensor(np.cumsum([0, *num_new.values()])),
            context_lens=torch.tensor([span.stop for span in spans.values()]),
            tables=torch.arange(len(num_new)),
            block_tables=torch.tensor(np.array([[np.resize(self.tables[row], widest) for row in num_new]])),
        )
        self.forward.run(batch)
        out = self.forward.logits(np.arange(len(positions))).clone()
        for row, span in spans.items():
            self.num_done[row] = span.stop
        return dict(zip(num_new, torch.split(out, list(num_new.values())), strict=True))


def in_steps(
    kernels: Kernels, shape: Shape, lengths: list[int], sizes: list[int], **options: Any
) -> list[torch.Tensor]:
    """All rows' results, computed `sizes[i % len(sizes)]` tokens of each row at a time."""
    return all_steps(Rows(kernels, shape, lengths, **options), lengths, sizes)


def all_steps(rows: Rows, lengths: list[int], sizes: list[int]) -> list[torch.Tensor]:
    """As `in_steps`, of rows that are there."""
    parts: list[list[torch.Tensor]] = [[] for _ in lengths]
    step = 0
    while left := {r: n - rows.num_done[r] for r, n in enumerate(lengths) if n > rows.num_done[r]}:
        new = {row: min(count, sizes[(step + row) % len(sizes)]) for row, count in left.items()}
        for row, result in rows.step(new).items():
            parts[row].append(result)
        step += 1
    return [torch.cat(part) for part in parts]


@contextmanager
def keys_from(ours: KVCache) -> Iterator[None]:
    """The reference attends over our cache's keys, which must be those that it would write, to their rounding."""
    shape = ours.shape
    parts = (shape.num_blocks, shape.num_layers, 2, shape.num_kv_heads, shape.head_dim, shape.block_size)
    keys = ours.records.view(shape.dtype).view(parts)[:, :, 0]  # csrc/kv_cache.h

    def write(metadata: AttentionMetadata, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        kept = keys[:, layer][metadata.slot_blocks[0], :, :, metadata.slot_offsets[0]].to(key.dtype)
        torch.testing.assert_close(kept, key, rtol=ROUNDING[shape.dtype], atol=2e-5)
        write_kv(metadata, layer, kept, value)

    with patch("octavo.kernels.reference.write_kv", write):
        yield


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    sizes=st.lists(st.sampled_from([1, 1, 2, 7, 40]), min_size=1, max_size=4),
    num_kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 4, 7, 9]),
    head_dim=st.sampled_from([8, 12, 16, 20, 48, 64]),
    block_size=st.sampled_from([1, 3, 8, 16, 32, 48]),
    dtype=st.sampled_from(list(TOLERANCE)),
    window=st.one_of(st.none(), st.integers(1, 60)),
    softcap=st.one_of(st.none(), st.floats(0.5, 30)),
    rotates=st.booleans(),
    normalises=st.booleans(),
    is_causal=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_ragged_batch_is_attended_as_by_the_reference(
    instruction_set: str,
    lengths: list[int],
    sizes: list[int],
    num_kv_heads: int,
    group: int,
    head_dim: int,
    block_size: int,
    dtype: torch.dtype,
    window: int | None,
    softcap: float | None,
    rotates: bool,
    normalises: bool,
    is_causal: bool,
    seed: int,
) -> None:
    rotary_dim = (head_dim if seed % 2 else head_dim // 4 * 2) if rotates else 0
    shape = Shape(
        num_kv_heads, group, head_dim, block_size, dtype, window, softcap, rotary_dim, normalises, is_causal=is_causal
    )
    ours = Rows(kernels_for(instruction_set), shape, lengths, seed=seed)
    theirs = Rows(ReferenceKernels(), shape, lengths, seed=seed)
    actual = all_steps(ours, lengths, sizes)
    with keys_from(ours.cache):
        expected = all_steps(theirs, lengths, sizes)
    for result, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("window", [None, 300])
def test_contexts_of_many_chunks_are_attended_as_by_the_reference(instruction_set: str, window: int | None) -> None:
    shape = Shape(num_kv_heads=1, group=3, head_dim=32, window=window, rotary_dim=32)
    lengths = [1300, 257, 256, 20]
    actual = in_steps(kernels_for(instruction_set), shape, lengths, [900, 1])
    expected = in_steps(ReferenceKernels(), shape, lengths, [900, 1])
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(("head_dim", "block_size"), [(16, 16), (64, 32), (32, 8), (20, 16), (16, 6), (20, 5)])
def test_decode_prefill_chunks_batch_and_threads_give_the_same_bits(
    instruction_set: str, dtype: torch.dtype, head_dim: int, block_size: int
) -> None:
    """Each way of cutting the same tokens into steps takes another path through the kernels."""
    kernels = kernels_for(instruction_set)
    shape = Shape(
        num_kv_heads=2, group=3, head_dim=head_dim, block_size=block_size, dtype=dtype, rotary_dim=8, normalises=True
    )
    lengths = [530, 40]
    whole = in_steps(kernels, shape, lengths, [1000])
    for sizes, count in [([500, 1], 1), ([500, 1], 2), ([3], 2), ([256, 17], 2), ([97], 3)]:
        results = in_steps(kernels_for(instruction_set, count), shape, lengths, sizes)
        for ours, theirs in zip(results, whole, strict=True):
            assert torch.equal(ours, theirs)
    alone = in_steps(kernels, shape, lengths[:1], [500, 1])
    assert torch.equal(alone[0], in_steps(kernels, shape, [530, 40, 300, 7], [500, 1])[0])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_a_row_that_threads_share_gets_the_bits_of_one_that_a_thread_takes_whole(
    instruction_set: str, dtype: torch.dtype
) -> None:
    """Few rows are cut by chunks; among many each is one item, which writes its token too."""
    shape = Shape(num_kv_heads=2, group=3, dtype=dtype, rotary_dim=8)
    lengths = [520, *[260] * 11]
    few, many = (Rows(kernels_for(instruction_set, 1), shape, lengths) for _ in range(2))
    for rows in (few, many):
        rows.step({row: length - 1 for row, length in enumerate(lengths)})
    whole = many.step(dict.fromkeys(range(len(lengths)), 1))
    for row in (0, 1):
        assert torch.equal(few.step({row: 1})[row], whole[row])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("window", [None, 200])
def test_rows_that_see_what_follows_are_attended_over_many_chunks_with_the_same_bits_in_any_batch(
    instruction_set: str, window: int | None
) -> None:
    kernels = kernels_for(instruction_set)
    shape = Shape(num_kv_heads=2, group=3, head_dim=16, window=window, rotary_dim=8, is_causal=False)
    lengths = [600, 1, 257, 40]
    together = in_steps(kernels, shape, lengths, [600])
    for ours, theirs in zip(together, in_steps(ReferenceKernels(), shape, lengths, [600]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-5, atol=3e-5)
    three = kernels_for(instruction_set, 3)
    apart = [Rows(three, shape, lengths).step({row: length})[row] for row, length in enumerate(lengths)]
    for ours, theirs in zip(apart, together, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(("head_dim", "block_size"), [(16, 32), (16, 8), (20, 16), (20, 5)])
def test_what_another_request_left_in_the_slots_changes_no_bit(
    dtype: torch.dtype, head_dim: int, block_size: int
) -> None:
    shape = Shape(head_dim=head_dim, dtype=dtype, block_size=block_size, window=50)
    lengths = [70, 33, 5]
    clean = in_steps(CpuKernels(), shape, lengths, [30, 1], poison=False)
    poisoned = in_steps(CpuKernels(), shape, lengths, [30, 1])
    for ours, theirs in zip(poisoned, clean, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.isfinite().all()


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_an_int8_cache_is_close_to_a_float_one(instruction_set: str) -> None:
    kernels = kernels_for(instruction_set)
    lengths, sizes = [300, 90], [80, 1]
    exact = in_steps(kernels, Shape(head_dim=64, dtype=torch.float32), lengths, sizes)
    rounded = in_steps(kernels, Shape(head_dim=64, dtype=torch.int8), lengths, sizes)
    for ours, theirs in zip(rounded, exact, strict=True):
        # Values up to about 4 are rounded to 4 / 127; weights move as the scores do.
        assert (ours - theirs).abs().max() < 0.05
        assert (ours - theirs).abs().mean() < 0.01


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(
    "shape",
    [
        Shape(num_kv_heads=3, group=3, head_dim=64),
        Shape(num_kv_heads=1, group=9, head_dim=48, window=70),
        Shape(group=8, head_dim=32, block_size=32, softcap=20.0),
        Shape(group=1, head_dim=20, block_size=6),
        Shape(head_dim=7, block_size=5),
    ],
)
def test_an_int8_cache_is_attended_as_by_the_reference(instruction_set: str, shape: Shape) -> None:
    """Queries and weights are rounded to 15 bits; keys and values are the same in both, but for what lies between two
    numbers."""
    shape, lengths, sizes = dataclasses.replace(shape, dtype=torch.int8), [300, 90, 7], [80, 1]
    expected = in_steps(ReferenceKernels(), shape, lengths, sizes)
    for ours, theirs in zip(in_steps(kernels_for(instruction_set), shape, lengths, sizes), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)
        assert (ours - theirs).abs().mean() < 5e-5


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_query_of_an_int8_cache_that_is_not_finite_gives_no_number(instruction_set: str, broken: float) -> None:
    rows = Rows(kernels_for(instruction_set), Shape(dtype=torch.int8), [40, 40], broken_query=broken)
    rows.step({0: 39, 1: 40})
    assert rows.step({0: 1})[0].isnan().all()


def test_only_the_layer_asked_for_is_written() -> None:
    rows = Rows(CpuKernels(), Shape(num_layers=3, layer=1), [20])
    rows.step({0: 20})
    layers = rows.cache.records.view(rows.cache.shape.num_blocks, 3, -1)
    assert (layers[:, (0, 2)] == 0xFF).all()
    assert not (layers[:, 1] == 0xFF).all()


@pytest.mark.skipif(not THP.exists(), reason="Linux tells how memory is mapped, and has large pages")
def test_a_cache_gets_large_pages_where_the_system_has_them() -> None:
    if THP.read_text().startswith("always madvise [never]"):
        pytest.skip("the system's administrator has turned them off")
    shape = CacheShape(1024, one_group(4), 16, 4, 64, torch.bfloat16)  # 32 MiB
    records = CpuKernels().allocate_cache(shape, CPU).records
    records.fill_(1)
    large_kb = 0
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]:
        first, last = (int(bound, 16) for bound in mapping.split()[0].split("-"))
        if first <= records.data_ptr() < last:
            large_kb = int(re.search(r"AnonHugePages: +(\d+)", mapping)[1])  # type: ignore[index]
    assert large_kb > 0


def test_copying_blocks_moves_whole_records_and_nothing_else() -> None:
    kernels = CpuKernels()
    cache = kernels.allocate_cache(CacheShape(6, one_group(3), 4, 2, 8, torch.bfloat16), CPU)
    cache.records.copy_(torch.randint(0, 256, cache.records.shape, dtype=torch.uint8))
    before = cache.records.clone()
    kernels.copy_blocks(cache, cache, torch.tensor([4, 0, 4]), torch.tensor([1, 5, 2]))
    assert torch.equal(cache.records, before[[0, 4, 4, 3, 4, 0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_swapping_out_and_back_is_the_references(dtype: torch.dtype) -> None:
    shape = CacheShape(40, one_group(3), 4, 2, 8, dtype)
    out, back = torch.randperm(40)[:25], torch.randperm(40)[:25]
    places = torch.randperm(30)[:25]
    seen = []
    for kernels in (CpuKernels(), ReferenceKernels()):
        cache = kernels.allocate_cache(shape, CPU)
        space = kernels.allocate_cache(dataclasses.replace(shape, num_blocks=30), CPU)
        cache.records.copy_(torch.arange(cache.records.numel()).remainder(251).view_as(cache.records))
        kernels.copy_blocks(cache, space, out, places)
        kernels.copy_blocks(space, cache, places, back)
        seen.append((cache.records, space.records))
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
