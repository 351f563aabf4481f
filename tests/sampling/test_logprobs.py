"""Log-probabilities, ranks and most likely tokens of the model's own distribution."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.sampling.interface import SamplingBatch
from octavo.outputs import TokenLogprobs
from octavo.sampling.table import SamplingTable
from octavo.sampling.told import row_logprobs, told_logprobs
from octavo.sampling_params import SamplingParams


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, counts: list[int]) -> list[TokenLogprobs]:
    """Of one token a position, as the model runner tells it."""
    scores = ReferenceKernels().score(logits, token_ids.unsqueeze(1), max(counts))
    return [own for (own,) in told_logprobs(scores, counts)]


def logprobs_one_by_one(row: list[float], token: int, count: int) -> tuple[float, int, list[int], list[float]]:
    total = math.log(math.fsum(math.exp(value - max(row)) for value in row)) + max(row)
    order = sorted(range(len(row)), key=lambda token_id: (-row[token_id], token_id))[:count]
    rank = 1 + sum(value > row[token] for value in row)
    return row[token] - total, rank, order, [row[token_id] - total for token_id in order]


@settings(max_examples=100)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    decimals=st.sampled_from([0, 6]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**32),
)
def test_logprobs_are_those_of_a_plain_loop(counts: list[int], decimals: int, dtype: torch.dtype, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(np.round(rng.normal(size=(len(counts), 9)) * 2, decimals)).to(dtype)
    token_ids = torch.from_numpy(rng.integers(0, 9, len(counts)))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for index, told in enumerate(token_logprobs(logits, token_ids, counts)):
        token = int(token_ids[index])
        logprob, rank, order, values = logprobs_one_by_one(logits[index].tolist(), token, counts[index])
        assert (told.token_id, told.rank, told.top_token_ids) == (token, rank, order)
        np.testing.assert_allclose(
            [told.logprob, *told.top_logprobs], [logprob, *values], rtol=tolerance, atol=tolerance
        )


def test_a_prompt_is_scored_position_by_position() -> None:
    logits = torch.randn(6, 50)
    next_ids = torch.tensor([3, 1, 4, 1, 5, 9])
    scored = token_logprobs(logits, next_ids, [2] * 6)
    assert [entry.token_id for entry in scored] == next_ids.tolist()
    alone = [token_logprobs(logits[i : i + 1], next_ids[i : i + 1], [2])[0] for i in range(6)]
    assert scored == alone


def test_asking_for_more_than_the_vocabulary_gives_all_of_it() -> None:
    (told,) = token_logprobs(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0]), [20])
    assert told.top_token_ids == [1, 2, 0]
    assert math.isclose(math.fsum(math.exp(value) for value in told.top_logprobs), 1, rel_tol=1e-6)


def test_logits_that_are_not_numbers_count_as_impossible() -> None:
    nan = torch.nan
    broken, empty = token_logprobs(torch.tensor([[nan, 1.0, 0.0], [nan, nan, nan]]), torch.tensor([1, 0]), [2, 1])
    assert broken.rank == 1
    assert broken.top_token_ids == [1, 2]
    assert math.isclose(broken.logprob, -math.log(1 + math.exp(-1)), rel_tol=1e-6)
    assert empty.logprob == 0


def test_several_tokens_of_one_position_are_told_as_each_alone() -> None:
    logits, token_ids = torch.randn(3, 50), torch.tensor([[4, 9], [0, 49], [7, 7]])
    scores = ReferenceKernels().score(logits, token_ids, 3)
    for column in range(2):
        alone = token_logprobs(logits, token_ids[:, column], [3] * 3)
        assert [own[column] for own in told_logprobs(scores, [3] * 3)] == alone


def batch_of(*params: SamplingParams) -> SamplingBatch:
    """A row for each, and a fork of the first."""
    table = SamplingTable()
    for row, own in enumerate(params):
        table.set_row(row, own, seed=row, sequence_index=0, stop_token_ids=[0])
    table.copy_row(0, len(params), 1)
    rows = np.arange(len(params) + 1)
    return table.batch(rows, np.zeros(len(rows), np.int64), lambda row, _: (rows[:0], rows[:0]), ())


def test_named_tokens_are_told_in_place_of_the_likeliest_ones() -> None:
    named = SamplingParams(temperature=0, logprob_token_ids=[9, 4, 9])
    batch = batch_of(named, SamplingParams(temperature=0, logprobs=2), SamplingParams(temperature=0))
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 12)))
    sampled = ReferenceKernels().sample(logits, batch)
    told = row_logprobs(sampled.scores, batch)
    for row in (0, 3):
        (own,) = told[row] or []
        assert own.token_id == int(logits[row].argmax())
        assert own.rank == 1
        assert own.top_token_ids == [9, 4]
        for token, logprob, rank in zip(own.top_token_ids, own.top_logprobs, own.top_ranks or [], strict=True):
            alone, own_rank, *_ = logprobs_one_by_one(logits[row].tolist(), token, 0)
            assert rank == own_rank
            assert math.isclose(logprob, alone, rel_tol=1e-12)
    (likeliest,) = told[1] or []
    assert len(likeliest.top_token_ids) == 2
    assert likeliest.top_ranks is None
    assert told[2] is None


def test_a_row_that_is_used_again_names_nothing() -> None:
    table = SamplingTable()
    table.set_row(0, SamplingParams(logprob_token_ids=[1]), 0, 0, [])
    table.set_row(0, SamplingParams(logprobs=1), 0, 0, [])
    rows = np.zeros(1, np.int64)
    assert not table.batch(rows, rows, lambda row, _: (rows[:0], rows[:0]), ()).named
