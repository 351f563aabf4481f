"""Triton's paged attention, in its interpreter, against the reference; and against itself in other batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from kernels.triton.gpu_arithmetic import arithmetic_as_on_a_gpu
from kernels.triton.ragged_batches import CPU, FP8, Case, Heads, Row, examples, heads, rows
from octavo.errors import ConfigError
from octavo.kernels.batch import BatchExtent
from octavo.kernels.cache import CacheShape
from octavo.kernels.reference_attention import paged_attention as reference_attention
from octavo.kernels.reference_attention import prepare
from octavo.kernels.triton import attention
from octavo.kernels.triton.attention import CHUNK, MOST_PARTIAL_BYTES, MOST_PROGRAMS, paged_attention
from octavo.kernels.triton.kernels import TritonKernels
from octavo.layer_groups import Window, one_group

TOLERANCE = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 2e-5}
"""Of results up to about 4. In 16 bits weights are rounded before their product with the values; the reference keeps
them in float32."""


@pytest.fixture(scope="module", autouse=True)
def as_on_a_gpu() -> Iterator[None]:
    with arithmetic_as_on_a_gpu():
        yield


def attended(case: Case) -> torch.Tensor:
    return paged_attention(case.query, case.cache, case.batch, case.heads.spec, case.extent)


def expected(case: Case) -> torch.Tensor:
    spec = case.heads.spec
    return reference_attention(
        case.query,
        prepare(case.batch, case.reference),
        spec.layer,
        scale=spec.scale,
        kind=spec.kind,
        softcap=spec.softcap,
    )


def check(case: Case) -> None:
    torch.testing.assert_close(attended(case), expected(case), atol=TOLERANCE[case.heads.dtype], rtol=0)


def shared_out(**limits: int) -> Any:
    """Other limits for how a row's chunks are shared out among programs."""
    return mock.patch.dict(vars(attention), limits)


@examples(18)
@given(heads=heads, rows=rows, seed=st.integers(0, 99))
def test_a_ragged_batch_is_attended_as_by_the_reference(heads: Heads, rows: list[Row], seed: int) -> None:
    check(Case(heads, rows, seed))


@examples(12)
@given(heads=heads, rows=rows, seed=st.integers(0, 99), data=st.data())
def test_a_rows_bits_depend_on_nothing_but_the_row(
    heads: Heads, rows: list[Row], seed: int, data: st.DataObject
) -> None:
    """Not on the rest of the batch, nor on how its chunks are shared out."""
    case = Case(heads, rows, seed)
    together = attended(case)
    number = data.draw(st.integers(0, len(rows) - 1))
    own = torch.split_with_sizes(together, [row.num_new for row in rows])[number]
    assert torch.equal(attended(case.only(number)), own)
    for limits in ({"MOST_PARTIAL_BYTES": 0}, {"MOST_PROGRAMS": 1}):
        with shared_out(**limits):
            assert torch.equal(attended(case), together)


@pytest.mark.parametrize("length", [15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_a_decoding_row_may_end_anywhere_beside_an_edge(length: int) -> None:
    check(Case(Heads(), [Row(length - 1, 1)]))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("block_size", [16, 256])
def test_every_head_size_is_served(head_dim: int, block_size: int) -> None:
    check(Case(Heads(head_dim=head_dim, block_size=block_size), [Row(20, 1), Row(0, 70)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cache_dtype", [torch.int8, FP8])
def test_caches_of_8_bits_are_read_by_decoding_and_by_prefilled_rows(
    dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    check(Case(Heads(dtype=dtype, cache_dtype=cache_dtype, head_dim=80), [Row(300, 1), Row(5, 2), Row(20, 60)]))


def test_more_heads_may_share_a_kv_head_than_a_tile_has_rows() -> None:
    check(Case(Heads(num_kv_heads=1, group=20), [Row(40, 1), Row(3, 2)]))


def test_a_token_is_attended_in_decode_as_in_a_prefill() -> None:
    case = Case(Heads(dtype=torch.float32, group=4), [Row(0, 300)])
    prefilled = attended(case)
    decoded = attended(case.only(0, num_new=1))
    torch.testing.assert_close(decoded[0], prefilled[299], atol=1e-6, rtol=0)


@pytest.mark.parametrize("limits", [{"MOST_PROGRAMS": 1000}, {"MOST_PROGRAMS": 8}, {"MOST_PARTIAL_BYTES": 0}])
def test_a_long_row_is_attended_beside_a_short_one(limits: dict[str, int]) -> None:
    case = Case(Heads(num_kv_heads=1, block_size=256, dtype=torch.float32), [Row(4500, 1), Row(0, 1)])
    with shared_out(**limits):
        check(case)


@dataclass
class Launches:
    """Stands in for a kernel: a launch is noted, and runs nothing."""

    grids: list[tuple[int, ...]] = field(default_factory=list)
    partial_bytes: list[int] = field(default_factory=list)
    """Of launches that leave sums to be merged."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(result: torch.Tensor, statistics: torch.Tensor, *arguments: Any, **constants: Any) -> None:
            self.grids.append(grid)
            if constants.get("SPLIT"):
                self.partial_bytes.append(result.nbytes + statistics.nbytes)

        return launch


@pytest.mark.parametrize("context", [200, 2048, 1 << 17])
@pytest.mark.parametrize("num_rows", [1, 8, 256])
def test_partial_sums_take_bounded_memory_however_large_the_step(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, context: int
) -> None:
    launches = Launches()
    monkeypatch.setattr(attention, "attend", launches)
    monkeypatch.setattr(attention, "merge_chunks", Launches())
    case = Case(Heads(num_kv_heads=8, group=4, head_dim=128), [Row(3, 1)] * num_rows)
    paged_attention(case.query, case.cache, case.batch, case.heads.spec, BatchExtent(context, 1))
    assert sum(launches.partial_bytes) <= MOST_PARTIAL_BYTES
    (num_programs,) = (prod(grid) for grid in launches.grids)
    assert min(8 * num_rows * -(-context // CHUNK), 1024) <= num_programs < 2 * MOST_PROGRAMS


def test_rows_whose_tokens_see_what_follows_are_attended_as_by_the_reference_and_alone_alike() -> None:
    """The first row has few new tokens and one chunk, the second many and two; the third is a single token."""
    case = Case(Heads(is_causal=False), [Row(0, 5), Row(0, CHUNK + 20), Row(0, 1)])
    check(case)
    for number, own in enumerate(torch.split_with_sizes(attended(case), [5, CHUNK + 20, 1])):
        assert torch.equal(attended(case.only(number)), own)


def test_a_kind_of_layer_without_kernels_is_refused_before_memory_is_taken() -> None:
    shape = CacheShape(1 << 40, one_group(2, Window(9, is_causal=False)), 16, 2, 16, torch.float16)
    with pytest.raises(ConfigError, match=r"no attention of kind 'window\(9\), both ways': use --kernels reference"):
        TritonKernels().allocate_cache(shape, CPU)
