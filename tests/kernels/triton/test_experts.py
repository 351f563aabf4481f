"""Experts in Triton's interpreter, against the reference: routing, grouping, and products of both."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from kernels.triton.gpu_arithmetic import arithmetic_as_on_a_gpu
from octavo.kernels.operations import DenseWeight
from octavo.kernels.quantized import FORMATS, QuantizedWeight, quantize_rows
from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.triton.experts import experts
from octavo.kernels.triton.products import FEW_ROWS, MANY_ROWS
from octavo.kernels.triton.routing import Routes, group_pairs, route

CPU = torch.device("cpu")
REFERENCE = ReferenceKernels()
HIDDEN, INNER, NUM_EXPERTS = 100, 37, 5


@pytest.fixture(scope="module", autouse=True)
def _fp8() -> Iterator[None]:
    with arithmetic_as_on_a_gpu():
        yield


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(kind: str, *shape: int, seed: int) -> list[DenseWeight]:
    """One an expert, each in memory of its own."""
    return [stored(random(*shape, seed=seed + index) / 6, kind) for index in range(NUM_EXPERTS)]


def stored(matrix: torch.Tensor, kind: str) -> DenseWeight:
    if kind not in FORMATS:
        return matrix.to(getattr(torch, kind))
    own = QuantizedWeight(matrix.shape[0], matrix.shape[1], CPU, torch.float16, FORMATS[kind])
    own.values.data, own.scales.data = quantize_rows(matrix, FORMATS[kind])
    return own


ROUTER = random(NUM_EXPERTS, HIDDEN, seed=30)


def layer(kind: str) -> tuple[torch.Tensor, Sequence[DenseWeight], Sequence[DenseWeight]]:
    return ROUTER, weights(kind, 2 * INNER, HIDDEN, seed=1), weights(kind, HIDDEN, INNER, seed=9)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "fp8"])
@pytest.mark.parametrize(("num_rows", "num_chosen"), [(0, 2), (1, 2), (5, NUM_EXPERTS), (12, 3)])
def test_the_experts_are_those_of_the_reference(kind: str, num_rows: int, num_chosen: int) -> None:
    hidden = random(num_rows, HIDDEN).to(torch.float32 if kind == "float32" else torch.float16)
    arguments = (hidden, *layer(kind), num_chosen, "silu")
    ours, theirs = experts(*arguments), REFERENCE.experts(*arguments)  # type: ignore[arg-type]
    tolerance = 2e-5 if kind == "float32" else 5e-3
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_a_tokens_result_is_the_same_bit_for_bit_in_any_batch_and_tile(kind: str) -> None:
    hidden, arguments = random(20, HIDDEN).to(torch.float16), (*layer(kind), 2, "silu")
    whole = experts(hidden, *arguments, tiling=MANY_ROWS)  # type: ignore[arg-type]
    for rows in (slice(0, 1), slice(17, 19)):
        assert torch.equal(experts(hidden[rows], *arguments, tiling=FEW_ROWS), whole[rows])  # type: ignore[arg-type]


def test_among_equals_the_first_experts_are_chosen() -> None:
    routes = route(random(3, HIDDEN), ROUTER[:1].expand(NUM_EXPERTS, -1).contiguous(), 2)
    assert routes.chosen.tolist() == [[0, 1]] * 3
    assert routes.shares.tolist() == [[0.5, 0.5]] * 3


def test_a_token_that_is_no_number_leaves_no_number_behind_and_harms_no_other() -> None:
    hidden = random(5, HIDDEN)
    expected = experts(hidden, *layer("float32"), 2, "silu")
    hidden[3, 7] = torch.nan
    result = experts(hidden, *layer("float32"), 2, "silu")
    assert not result[3].isfinite().any()
    others = [0, 1, 2, 4]
    assert torch.equal(result[others], expected[others])


@settings(max_examples=10)
@given(
    chosen=st.lists(st.sampled_from([0, 1, 1, 3, 6]), max_size=40),
    rows=st.sampled_from([1, 4, 16]),
    num_experts=st.sampled_from([7, 8, 40]),
)
def test_every_pair_is_in_one_tile_of_its_expert_in_its_order(chosen: list[int], rows: int, num_experts: int) -> None:
    routes = Routes(1, torch.tensor(chosen, dtype=torch.int32).unsqueeze(1), torch.empty(0))
    tiles = group_pairs(routes, num_experts, rows)
    found: dict[int, list[int]] = {}
    num_used = 0
    for pairs, expert in zip(tiles.pairs.tolist(), tiles.experts.tolist(), strict=True):
        if expert < 0:
            break
        num_used += 1
        assert pairs[0] >= 0
        found.setdefault(expert, []).extend(pair for pair in pairs if pair >= 0)
    assert found == {e: [pair for pair, other in enumerate(chosen) if other == e] for e in sorted(set(chosen))}
    assert all(expert == -1 for expert in tiles.experts.tolist()[num_used:])
