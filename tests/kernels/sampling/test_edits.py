"""Masks, biases and penalties change the logits of the rows that ask for it, each as a loop over tokens would."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from octavo.kernels.sampling.masks import add_bias, allow_bits, allow_only, forbid
from octavo.kernels.sampling.penalties import penalize_occurrence, penalize_repetition

VOCAB = 19
ROWS = np.array([0, 2, 3])
token_lists = st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=12), min_size=3, max_size=3)


def ids(lists: list[list[int]]) -> list[np.ndarray]:
    return [np.array(token_ids, dtype=np.int32) for token_ids in lists]


def some_logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(4, VOCAB))).to(dtype)


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=50)
@given(token_lists)
def test_only_listed_tokens_stay_possible(lists: list[list[int]]) -> None:
    logits, expected = some_logits(), some_logits()
    allow_only(logits, ROWS, ids(lists))
    for row, token_ids in zip(ROWS, lists, strict=True):
        for token in set(range(VOCAB)) - set(token_ids):
            expected[row, token] = -torch.inf
    assert_same(logits, expected)


@settings(max_examples=50)
@given(token_lists)
def test_forbidden_tokens_become_impossible(lists: list[list[int]]) -> None:
    logits, expected = some_logits(), some_logits()
    forbid(logits, ROWS, ids(lists))
    for row, token_ids in zip(ROWS, lists, strict=True):
        for token in token_ids:
            expected[row, token] = -torch.inf
    assert_same(logits, expected)


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=4), min_size=3, max_size=3))
def test_a_bit_mask_is_read_lowest_bit_first_and_is_zero_past_its_end(masks: list[bytes]) -> None:
    logits, expected = some_logits(), some_logits()
    allow_bits(logits, ROWS, masks)
    for row, mask in zip(ROWS, masks, strict=True):
        for token in range(VOCAB):
            if not int.from_bytes(mask, "little") >> token & 1:
                expected[row, token] = -torch.inf
    assert_same(logits, expected)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100)), min_size=3, max_size=3))
def test_biases_are_added(biases: list[dict[int, float]]) -> None:
    logits, expected = some_logits(), some_logits()
    add_bias(logits, ROWS, ids([list(bias) for bias in biases]), [np.array(list(bias.values())) for bias in biases])
    for row, bias in zip(ROWS, biases, strict=True):
        for token, value in bias.items():
            expected[row, token] += value
    assert_same(logits, expected)


@settings(max_examples=50)
@given(token_lists, st.lists(st.floats(0.2, 3), min_size=3, max_size=3))
def test_the_repetition_penalty_is_that_of_transformers(lists: list[list[int]], penalties: list[float]) -> None:
    logits, expected = some_logits(), some_logits()
    penalize_repetition(logits, ROWS, ids(lists), np.array(penalties))
    for row, token_ids, penalty in zip(ROWS, lists, penalties, strict=True):
        seen = torch.tensor([token_ids], dtype=torch.int64)
        expected[row] = RepetitionPenaltyLogitsProcessor(penalty)(seen, expected[row : row + 1])[0]
    assert_same(logits, expected)


@settings(max_examples=50)
@given(
    token_lists,
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)
def test_frequency_counts_each_occurrence_and_presence_only_the_first(
    lists: list[list[int]], frequency: list[float], presence: list[float]
) -> None:
    logits, expected = some_logits(), some_logits()
    penalize_occurrence(logits, ROWS, ids(lists), np.array(frequency), np.array(presence))
    for row, token_ids, each, once in zip(ROWS, lists, frequency, presence, strict=True):
        for token in set(token_ids):
            expected[row, token] -= each * token_ids.count(token) + once
    assert_same(logits, expected)


def test_tokens_past_the_vocabulary_are_ignored() -> None:
    logits, beyond = some_logits(), ids([[VOCAB], [VOCAB + 7, 3], []])
    forbid(logits, ROWS, beyond)
    add_bias(logits, ROWS, beyond, [np.array([5.0]), np.array([5.0, 1.0]), np.zeros(0)])
    penalize_repetition(logits, ROWS, beyond, np.full(3, 2.0))
    penalize_occurrence(logits, ROWS, beyond, np.ones(3), np.ones(3))
    expected = some_logits()
    expected[2, 3] = -torch.inf
    assert_same(logits, expected)
