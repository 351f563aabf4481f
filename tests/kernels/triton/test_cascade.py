"""Rows that read the blocks they share once, in Triton's interpreter: their bits are as if each read for itself."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from triton.runtime.interpreter import InterpreterBuilder

from kernels.triton.gpu_arithmetic import arithmetic_as_on_a_gpu
from kernels.triton.ragged_batches import FP8, Case, Heads, Row, examples
from octavo.kernels.reference_attention import paged_attention as reference_attention
from octavo.kernels.reference_attention import prepare
from octavo.kernels.triton import attention
from octavo.kernels.triton.attention import CHUNK, paged_attention

CREATE_DOT = InterpreterBuilder.create_dot
TOLERANCE = {torch.float16: 4e-3, torch.float32: 2e-5}


@pytest.fixture(scope="module", autouse=True)
def as_on_a_gpu() -> Iterator[None]:
    with arithmetic_as_on_a_gpu():
        yield


def sharing(heads: Heads, rows: list[Row], lengths: list[int], seed: int = 0) -> Case:
    """A case whose rows have so many first tokens, in whole blocks, in common with the row before."""
    case = Case(heads, rows, seed, [length // heads.block_size for length in lengths])
    told = [0] * len(rows)
    for number in range(1, len(rows)):
        pair = rows[number - 1 : number + 1]
        if all(row.num_new == 1 for row in pair):
            length = lengths[number] // heads.block_size * heads.block_size
            told[number] = min(length, *(row.num_cached for row in pair)) // CHUNK * CHUNK
    case.batch = replace(case.batch, shared=torch.tensor(told))
    case.extent = replace(case.extent, num_shared=sum(told))
    return case


def attended(case: Case, least_shared: int, **limits: int) -> torch.Tensor:
    with mock.patch.dict(vars(attention), LEAST_SHARED=least_shared, **limits):
        return paged_attention(case.query, case.cache, case.batch, case.heads.spec, case.extent)


def tiles_read(case: Case, least_shared: int, **limits: int) -> tuple[int, torch.Tensor]:
    """How many tiles of keys all programs read together, which is two products each; and what they give."""
    with mock.patch.object(InterpreterBuilder, "create_dot", autospec=True, side_effect=CREATE_DOT) as dot:
        result = attended(case, least_shared, **limits)
    return dot.call_count // 2, result


heads = st.builds(
    Heads,
    num_kv_heads=st.just(1),
    group=st.sampled_from([4, 2, 5, 8, 1, 3]),
    head_dim=st.just(16),
    block_size=st.sampled_from([16, 4, 32, 256]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    cache_dtype=st.sampled_from([None, None, torch.int8, FP8]),
    window=st.sampled_from([None, None, None, 300]),
    softcap=st.sampled_from([None, 5.0]),
    layer=st.sampled_from([None, 1]),
)
row = st.builds(Row, st.sampled_from([512, 300, 530, 256, 255]), st.sampled_from([1, 1, 1, 1, 1, 2]))
common = st.sampled_from([256, 512, 272, 540, 511, 257, 255, 0])


@examples(7)
@given(heads=heads, rows=st.lists(row, min_size=3, max_size=4), data=st.data(), seed=st.integers(0, 99))
def test_bits_are_those_of_rows_that_read_for_themselves(
    heads: Heads, rows: list[Row], data: st.DataObject, seed: int
) -> None:
    lengths = [min(data.draw(common), *(row.num_cached for row in pair)) for pair in pairwise([rows[0], *rows])]
    case = sharing(heads, rows, lengths, seed)
    alone = attended(case, least_shared=1 << 30)
    for limits in ({}, {"MOST_PROGRAMS": 1}):
        assert torch.equal(attended(case, 0, **limits), alone)
    spec = case.heads.spec
    exact = reference_attention(
        case.query,
        prepare(case.batch, case.reference),
        spec.layer,
        scale=spec.scale,
        kind=spec.kind,
        softcap=spec.softcap,
    )
    torch.testing.assert_close(alone, exact, atol=TOLERANCE[heads.dtype], rtol=0)


@pytest.mark.parametrize(
    ("group", "num_reads", "limits"),
    [(1, 1, {}), (4, 2, {}), (5, 2, {"MOST_PROGRAMS": 1}), (8, 3, {}), (16, 6, {})],
)
def test_a_chunk_is_read_once_for_as_many_rows_as_a_tile_has_room_for(
    group: int, num_reads: int, limits: dict[str, int]
) -> None:
    """Six rows share a chunk, and have one of their own."""
    heads = Heads(num_kv_heads=1, group=group, dtype=torch.float32)
    case = sharing(heads, [Row(CHUNK, 1)] * 6, [0] + [CHUNK] * 5)
    tiles_a_chunk = CHUNK // attention.few_rows_tiling(group, 16, torch.float32, torch.float32).keys
    num_together, together = tiles_read(case, 0, **limits)
    num_alone, alone = tiles_read(case, 1 << 30, **limits)
    assert num_together == num_reads * tiles_a_chunk + 6
    assert num_alone == 6 * tiles_a_chunk + 6
    assert torch.equal(together, alone)


def test_rows_that_share_less_than_pays_read_for_themselves() -> None:
    case = sharing(Heads(num_kv_heads=1, dtype=torch.float32), [Row(CHUNK, 1)] * 2, [0, CHUNK])
    assert case.extent.num_shared == CHUNK
    assert tiles_read(case, CHUNK + 1)[0] > tiles_read(case, CHUNK)[0]


def test_what_rows_share_may_differ_from_one_to_the_next() -> None:
    """Rows 0 and 1 share two chunks, row 2 the first of them, row 3 nothing with row 2."""
    rows = [Row(2 * CHUNK + 5, 1)] * 4
    case = sharing(Heads(num_kv_heads=1, group=1, dtype=torch.float32), rows, [0, 2 * CHUNK, CHUNK, 0])
    tiles_a_chunk = CHUNK // attention.few_rows_tiling(1, 16, torch.float32, torch.float32).keys
    num_chunks = 1 + 1 + 1 + 2
    num_read, together = tiles_read(case, 0)
    assert num_read == num_chunks * tiles_a_chunk + len(rows)
    assert torch.equal(together, attended(case, 1 << 30))
