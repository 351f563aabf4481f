"""From a distribution to a token: the inverse of the cumulative sum, ties, and rows that allow nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.sampling.drawing import draw, make_finite, most_likely

BELOW_ONE = math.nextafter(1, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_greedy_ties_go_to_the_lowest_id_wherever_they_are(dtype: torch.dtype) -> None:
    logits = torch.zeros(40, 5000, dtype=dtype)
    firsts = torch.arange(40) * 113
    for row, first in enumerate(firsts.tolist()):
        logits[row, first::37] = 3
    assert torch.equal(most_likely(logits, torch.zeros(40, dtype=torch.int64)), firsts)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-300, 1e-30, 0.1, 0.5, 3.0]), min_size=1, max_size=30).filter(any),
    st.one_of(st.floats(0, BELOW_ONE), st.just(BELOW_ONE)),
)
def test_a_draw_inverts_the_cumulative_sum_and_never_takes_an_impossible_token(
    weights: list[float], number: float
) -> None:
    token = int(draw(torch.tensor([weights], dtype=torch.float64), torch.tensor([number], dtype=torch.float64)))
    assert weights[token] > 0
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    target = number * sums[-1]
    assert sums[token] <= target < sums[token + 1]


@pytest.mark.parametrize("scale", [1.0, math.nextafter(1, 2), 1.5, math.nextafter(2, 0), math.pi, 1e-9, 7e11])
def test_the_highest_number_stays_inside_whatever_the_total(scale: float) -> None:
    weights = torch.tensor([[0.3, 0.7, 0.0]], dtype=torch.float64) * scale
    assert int(draw(weights, torch.tensor([BELOW_ONE], dtype=torch.float64))) == 1


def test_the_ends_of_the_interval_give_the_first_and_last_possible_tokens() -> None:
    weights = torch.tensor([[0, 0, 0.25, 0, 0.75, 0, 0]]).repeat(2, 1)
    assert draw(weights, torch.tensor([0, BELOW_ONE], dtype=torch.float64)).tolist() == [2, 4]


def test_rows_without_a_finite_maximum_are_repaired_and_the_others_left_alone() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[1, -inf, 2], [nan, 1, 0], [nan, nan, nan], [-inf, -inf, -inf], [inf, 5, nan], [0, 0, 0]])
    before = logits.clone()
    maxima = make_finite(logits, torch.tensor([0, 0, 2, 1, 0, 0]))
    assert torch.equal(logits[[0, 5]], before[[0, 5]])
    assert maxima.isfinite().all()
    assert torch.equal(maxima, logits.amax(-1, keepdim=True))
    assert logits.argmax(-1).tolist() == [2, 1, 2, 1, 0, 0]
    possible = [[False, True, True], [False, False, True], [False, True, False], [True, True, False]]
    assert logits[1:5].isfinite().tolist() == possible


def test_greedy_rows_are_repaired_too() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[nan, 3, 4], [nan, nan, -inf], [1, inf, 0], [2, 1, 0]])
    assert most_likely(logits, torch.tensor([0, 1, 0, 2])).tolist() == [2, 1, 1, 0]
    assert logits[0].isnan().any(), "the caller's logits are not changed"
