"""Triton's paged attention, in its interpreter, against the reference; and against itself in other batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from kernels.triton.ragged_batches import Case, Heads, Row
from octavo.kernels.reference_attention import paged_attention as reference_attention
from octavo.kernels.reference_attention import prepare
from octavo.kernels.triton.attention import CHUNK, paged_attention

TOLERANCE = {torch.float16: 4e-3, torch.float32: 2e-5}
"""Weights of 16 bits are rounded before their product with the values; the reference keeps them in float32."""

EXAMPLES = settings(max_examples=25)


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


heads = st.builds(
    Heads,
    num_kv_heads=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 2, 3, 4, 7]),
    head_dim=st.sampled_from([16, 64, 80]),
    block_size=st.sampled_from([16, 32, 48]),
    dtype=st.sampled_from([torch.float16, torch.float32]),
    window=st.sampled_from([None, 1, 17, 40, 300]),
    softcap=st.sampled_from([None, 5.0]),
)
cached = st.one_of(
    st.integers(0, 70),
    st.builds(lambda blocks, past: 16 * blocks + past, st.integers(1, 20), st.sampled_from([-1, 0, 1])),
)
rows = st.lists(st.builds(Row, num_cached=cached, num_new=st.sampled_from([1, 1, 2, 5, 33])), min_size=1, max_size=3)


@EXAMPLES
@given(heads=heads, rows=rows, seed=st.integers(0, 99))
def test_a_ragged_batch_is_attended_as_by_the_reference(heads: Heads, rows: list[Row], seed: int) -> None:
    check(Case(heads, rows, seed))


@pytest.mark.parametrize("length", [15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_a_decoding_row_may_end_anywhere_beside_an_edge(length: int) -> None:
    check(Case(Heads(), [Row(length - 1, 1)]))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256])
@pytest.mark.parametrize("block_size", [16, 256])
def test_every_head_size_is_served(head_dim: int, block_size: int) -> None:
    check(Case(Heads(head_dim=head_dim, block_size=block_size), [Row(20, 1), Row(0, 70)]))


def test_more_heads_may_share_a_kv_head_than_a_tile_has_rows() -> None:
    check(Case(Heads(num_kv_heads=1, group=20), [Row(40, 1), Row(3, 2)]))


def test_a_rows_result_does_not_depend_on_the_rest_of_the_batch() -> None:
    rows = [Row(600, 1), Row(30, 1), Row(10, 90), Row(255, 3)]
    case = Case(Heads(group=4), rows)
    together = torch.split_with_sizes(attended(case), [row.num_new for row in rows])
    for number, row in enumerate(rows):
        alone = case.only(number)
        assert torch.equal(attended(alone), together[number]), row


def test_a_token_is_attended_in_decode_as_in_a_prefill() -> None:
    case = Case(Heads(dtype=torch.float32, group=4), [Row(0, 300)])
    prefilled = attended(case)
    decoded = attended(case.only(0, num_new=1))
    torch.testing.assert_close(decoded[0], prefilled[299], atol=1e-6, rtol=0)
