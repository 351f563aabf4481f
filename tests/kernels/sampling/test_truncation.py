"""Top-k, top-p and min-p keep the tokens that a plain loop keeps, and those that transformers keeps."""

from itertools import accumulate
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessor, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from octavo.kernels.sampling import truncation
from octavo.kernels.sampling.truncation import Cutoffs, truncate


def cutoffs(rows: list[tuple[int, float, float]]) -> Cutoffs:
    top_k, top_p, min_p = zip(*rows, strict=True)
    wide = torch.float64
    return Cutoffs(torch.tensor(top_k), torch.tensor(top_p, dtype=wide), torch.tensor(min_p, dtype=wide))


def kept(probabilities: torch.Tensor, rows: list[tuple[int, float, float]]) -> torch.Tensor:
    """`truncate`'s groups put together again: zero where a token is cut."""
    result = torch.full_like(probabilities, torch.nan)
    for group in truncate(probabilities, cutoffs(rows)):
        assert (group.token_ids.diff(dim=1) > 0).all()
        dense = torch.zeros_like(probabilities[group.rows])
        assert result[group.rows].isnan().all(), "a row came twice"
        result[group.rows] = dense.scatter(1, group.token_ids.expand_as(group.probabilities), group.probabilities)
    return result


def kept_one_by_one(probabilities: list[float], top_k: int, top_p: float, min_p: float) -> list[float]:
    falling = sorted(probabilities, reverse=True)
    least = falling[top_k - 1] if 0 < top_k < len(falling) else 0.0
    falling = [p for p in falling if p >= least]
    if top_p < 1:
        masses = list(accumulate(falling))
        wanted = top_p * (masses[-1] if least else 1)
        least = next((p for p, mass in zip(falling, masses, strict=True) if mass >= wanted), falling[-1])
    least = max(least, min_p * falling[0])
    return [p if p >= least else 0.0 for p in probabilities]


row_cutoffs = st.tuples(
    st.one_of(st.just(0), st.integers(1, 60)),
    st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    st.one_of(st.just(0.0), st.floats(0, 1)),
)


@settings(max_examples=200)
@given(
    rows=st.lists(row_cutoffs, min_size=1, max_size=6),
    spread=st.sampled_from([0.0, 0.3, 2.0, 30.0, 800.0]),
    decimals=st.sampled_from([0, 1, 9]),
    widths=st.sampled_from([(), (1,), (4, 16), (64, 1024)]),
    seed=st.integers(0, 2**32),
)
def test_any_mixture_of_cutoffs_keeps_what_a_loop_keeps(
    rows: list[tuple[int, float, float]], spread: float, decimals: int, widths: tuple[int, ...], seed: int
) -> None:
    """`decimals=0` makes many equal probabilities, a large spread many of zero."""
    logits = np.round(np.random.default_rng(seed).normal(size=(len(rows), 50)) * spread, decimals)
    probabilities = torch.from_numpy(logits).softmax(-1)
    with mock.patch.object(truncation, "WIDTHS", widths):
        actual = kept(probabilities, rows)
    for index, row in enumerate(rows):
        expected = kept_one_by_one(probabilities[index].tolist(), *row)
        assert actual[index].tolist() == expected


@pytest.mark.parametrize(
    ("row", "warper"),
    [
        ((7, 1.0, 0.0), TopKLogitsWarper(7)),
        ((100, 1.0, 0.0), TopKLogitsWarper(100)),
        ((0, 0.1, 0.0), TopPLogitsWarper(0.1)),
        ((0, 0.9, 0.0), TopPLogitsWarper(0.9)),
        ((0, 0.999, 0.0), TopPLogitsWarper(0.999)),
        ((0, 1.0, 0.05), MinPLogitsWarper(0.05)),
    ],
)
def test_each_cutoff_keeps_what_transformers_keeps(row: tuple[int, float, float], warper: LogitsProcessor) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 5000)) * 3)
    expected = warper(torch.empty(0), scores).isfinite()
    assert torch.equal(kept(scores.softmax(-1), [row] * 8) > 0, expected)


def test_the_cutoffs_follow_one_another_as_in_transformers() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 5000)) * 3)
    expected, no_ids = scores, torch.LongTensor()
    for warper in (TopKLogitsWarper(40), TopPLogitsWarper(0.8), MinPLogitsWarper(0.02)):
        expected = warper(no_ids, expected)
    assert torch.equal(kept(scores.softmax(-1), [(40, 0.8, 0.02)] * 8) > 0, expected.isfinite())


def test_equals_at_the_edge_are_all_kept() -> None:
    probabilities = torch.tensor([[0.4, 0.15, 0.15, 0.15, 0.15]] * 2)
    assert torch.equal(kept(probabilities, [(2, 1.0, 0.0), (0, 0.5, 0.0)]), probabilities)


def test_only_rows_whose_set_is_not_among_the_likeliest_are_sorted_whole() -> None:
    peaked, flat, cold = torch.arange(0, -500.0, -0.1), torch.zeros(5000), torch.arange(0, -500000.0, -100)
    probabilities = torch.stack([peaked, flat, peaked, cold]).double().softmax(-1)
    groups = truncate(probabilities, cutoffs([(0, 0.9, 0.0), (0, 0.9, 0.0), (5, 1.0, 0.0), (50, 0.9, 0.0)]))
    assert [(group.rows.tolist(), group.token_ids.shape[1]) for group in groups] == [([0, 2, 3], 64), ([1], 5000)]
