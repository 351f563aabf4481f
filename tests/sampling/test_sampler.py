"""Sampling a whole batch: the order of the steps, the frequencies that come out, and that no row minds another."""

import math
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.sampling.noise import exponential, hash_tokens
from octavo.kernels.sampling.philox import row_keys
from octavo.outputs import TokenLogprobs
from octavo.sampling.table import SamplingTable, TokenHistory
from octavo.sampling.told import row_logprobs
from octavo.sampling_params import SamplingParams

VOCAB = 40
EOS = 7
PROMPT, OUTPUT = [1, 2, 3, 3], [3, 9, 9, 12]


class Result(NamedTuple):
    token_ids: torch.Tensor
    logprobs: list[list[TokenLogprobs] | None]


def sample(
    logits: torch.Tensor,
    table: SamplingTable,
    rows: np.ndarray,
    positions: np.ndarray,
    history: TokenHistory,
    masks: list[tuple[int, bytes]],
) -> Result:
    """A step's sampling as the model runner does it."""
    batch = table.plain_batch(rows, masks) or table.batch(rows, positions, history, masks)
    sampled = ReferenceKernels().sample(logits, batch)
    return Result(sampled.token_ids, row_logprobs(sampled.scores, batch) or [None] * len(rows))


def history(row: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(PROMPT, dtype=np.int32), np.array(OUTPUT, dtype=np.int32)


def no_history(row: int, position: int) -> tuple[np.ndarray, np.ndarray]:
    raise AssertionError(f"row {row} has no penalties, yet was asked for its tokens")


def make_table(params: list[SamplingParams], seed: int = 5, stops: tuple[int, ...] = (EOS,)) -> SamplingTable:
    table = SamplingTable()
    for row, row_params in enumerate(params):
        table.set_row(row, row_params, seed + row, row % 3, list(stops))
    return table


def sample_rows(
    logits: torch.Tensor,
    params: list[SamplingParams],
    *,
    position: int = 4,
    masks: list[tuple[int, bytes]] | None = None,
    stops: tuple[int, ...] = (EOS,),
) -> Result:
    rows = np.arange(len(params))
    return sample(logits, make_table(params, stops=stops), rows, np.full(len(params), position), history, masks or [])


def random_logits(count: int, vocab: int = VOCAB, seed: int = 0, spread: float = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, vocab)) * spread)


def bits(token_ids: list[int]) -> bytes:
    return sum(1 << token for token in token_ids).to_bytes(VOCAB // 8, "little")


def token_of_one(
    logits: list[float], params: SamplingParams, *, position: int, noise: list[float], mask: list[int] | None
) -> int:
    """The whole of sampling for one row, a token at a time."""
    for token in range(VOCAB):
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            logits[token] = -math.inf
        if mask is not None and token not in mask:
            logits[token] = -math.inf
        logits[token] += (params.logit_bias or {}).get(token, 0)
        if token in PROMPT + OUTPUT:
            logits[token] *= 1 / params.repetition_penalty if logits[token] > 0 else params.repetition_penalty
        logits[token] -= OUTPUT.count(token) * params.frequency_penalty + (token in OUTPUT) * params.presence_penalty
    if position < params.min_tokens:
        logits[EOS] = -math.inf
    highest = max(logits)
    if highest == -math.inf:
        return EOS
    if params.temperature == 0:
        return logits.index(highest)
    weights = [math.exp((value - highest) / params.temperature) for value in logits]
    if 0 < params.top_k < VOCAB:
        least = sorted(weights)[-params.top_k]
        weights = [weight if weight >= least else 0.0 for weight in weights]
    falling = sorted(weights, reverse=True)
    masses = list(accumulate(falling))
    if params.top_p < 1:
        last = next(i for i, mass in enumerate(masses) if mass >= params.top_p * masses[-1])
        weights = [weight if weight >= falling[last] else 0.0 for weight in weights]
    weights = [weight if weight >= params.min_p * max(weights) else 0.0 for weight in weights]
    times = [weight / one for weight, one in zip(weights, noise, strict=True)]
    return times.index(max(times))


def noise_of(row: int, position: int) -> list[float]:
    """Each token's, in the tables of `make_table`."""
    keys = torch.from_numpy(row_keys([5 + row], [row % 3], [position]).view(np.int32))
    return exponential(hash_tokens(torch.arange(VOCAB).unsqueeze(0)), keys, torch.float64)[0].tolist()


some_tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12, unique=True)
any_params = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.floats(0.05, 3)),
    top_k=st.one_of(st.just(0), st.integers(1, 60)),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
    min_p=st.one_of(st.just(0.0), st.floats(0.01, 0.5)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    min_tokens=st.integers(0, 8),
    logit_bias=st.one_of(st.none(), st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5), max_size=5)),
    allowed_token_ids=st.one_of(st.none(), some_tokens),
)


@settings(max_examples=150)
@given(
    params=st.lists(any_params, min_size=1, max_size=6),
    masks=st.lists(st.one_of(st.none(), some_tokens), min_size=6, max_size=6),
    position=st.integers(0, 10),
    seed=st.integers(0, 2**31),
)
def test_any_mixture_of_rows_gets_the_tokens_of_a_loop_over_rows(
    params: list[SamplingParams], masks: list[list[int] | None], position: int, seed: int
) -> None:
    logits = random_logits(len(params), seed=seed)
    given_masks = [(row, bits(mask)) for row, mask in enumerate(masks[: len(params)]) if mask is not None]
    result = sample_rows(logits, params, position=position, masks=given_masks)
    for row, row_params in enumerate(params):
        noise = noise_of(row, position)
        expected = token_of_one(logits[row].tolist(), row_params, position=position, noise=noise, mask=masks[row])
        assert int(result.token_ids[row]) == expected


MIXED = [
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.95),
    SamplingParams(temperature=2, top_p=0.99),
    SamplingParams(top_k=50),
    SamplingParams(top_k=700, top_p=0.9, min_p=0.001),
    SamplingParams(min_p=0.02, logprobs=3),
    SamplingParams(temperature=0, repetition_penalty=1.3, logprobs=0),
    SamplingParams(temperature=0.7, frequency_penalty=0.5, presence_penalty=0.2, logit_bias={5: 3.0}),
    SamplingParams(min_tokens=10, allowed_token_ids=[EOS, 5, 9, 400]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1031, 5003, 20480])
def test_a_row_gets_the_same_token_and_logprobs_alone_and_among_others(dtype: torch.dtype, vocab: int) -> None:
    params = [MIXED[row % len(MIXED)] for row in range(64)]
    logits = random_logits(64, vocab).to(dtype)
    table = make_table(params)
    rows, positions = np.arange(64), np.arange(64) % 20
    together = sample(logits, table, rows, positions, history, [])
    for chosen in (*rows.reshape(-1, 1), rows[::-1], rows[5:12]):
        apart = sample(logits[chosen.copy()], table, chosen, positions[chosen], history, [])
        assert torch.equal(apart.token_ids, together.token_ids[chosen.copy()])
        assert apart.logprobs == [together.logprobs[row] for row in chosen]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2, top_k=6),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
        SamplingParams(logit_bias={3: 2.0}, frequency_penalty=1.0),
    ],
)
def test_frequencies_over_seeds_are_those_of_the_intended_distribution(params: SamplingParams) -> None:
    draws, vocab = 20_000, 12
    logits = random_logits(1, vocab, seed=3, spread=1.5)
    table = SamplingTable()
    for row in range(draws):
        table.set_row(row, params, row, 0, [])
    rows = np.arange(draws)
    result = sample(logits.expand(draws, vocab), table, rows, np.full(draws, 4), history, [])
    counts = np.bincount(result.token_ids.numpy(), minlength=vocab)
    intended = intended_distribution(logits[0].clone(), params)
    assert not counts[intended == 0].any()
    expected = draws * intended[intended > 0]
    chi_square = ((counts[intended > 0] - expected) ** 2 / expected).sum()
    assert chi_square < 40  # at most 11 degrees of freedom: above with a chance under 1 in 10,000


def intended_distribution(logits: torch.Tensor, params: SamplingParams) -> np.ndarray:
    for token, bias in (params.logit_bias or {}).items():
        logits[token] += bias
    for token in OUTPUT:
        if token < len(logits):
            logits[token] -= params.frequency_penalty
    p = (logits / params.temperature).softmax(-1).numpy()
    falling = -np.sort(-p)
    if params.top_k:
        p = np.where(p >= falling[params.top_k - 1], p, 0)
    p = np.where(p >= falling[np.searchsorted(np.cumsum(falling), params.top_p * 0.999999999)], p, 0)
    p = np.where(p >= params.min_p * p.max(), p, 0)
    return np.asarray(p / p.sum())


def test_a_greedy_batch_asks_for_no_history_and_leaves_the_logits_alone() -> None:
    logits = random_logits(3)
    before = logits.clone()
    table = make_table([SamplingParams(temperature=0)] * 3)
    result = sample(logits, table, np.arange(3), np.zeros(3, dtype=np.int64), no_history, [])
    assert torch.equal(result.token_ids, before.argmax(-1))
    assert result.logprobs == [None] * 3
    assert torch.equal(logits, before)


def test_no_parameter_writes_to_the_logits() -> None:
    params = [MIXED[row % len(MIXED)] for row in range(20)]
    logits = random_logits(20, 1031)
    before = logits.clone()
    sample_rows(logits, params, masks=[(1, b"\x7f" * 100)])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_temperature_near_zero_is_greedy(temperature: float, dtype: torch.dtype) -> None:
    logits = random_logits(8).to(dtype)
    tokens = sample_rows(logits, [SamplingParams(temperature=temperature)] * 8).token_ids
    assert torch.equal(tokens, logits.argmax(-1))


def test_stop_tokens_are_held_back_until_enough_tokens_are_there() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, EOS] = 100
    params = [SamplingParams(temperature=0, min_tokens=3)]
    assert [int(sample_rows(logits, params, position=p).token_ids[0]) for p in range(5)] == [0, 0, 0, EOS, EOS]


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = random_logits(1)
    params = SamplingParams(temperature=0, logprobs=2, logit_bias={4: 100.0}, repetition_penalty=2.0)
    result = sample_rows(logits, [params])
    assert result.logprobs[0] is not None
    (told,) = result.logprobs[0]
    own = logits[0].log_softmax(-1)
    assert told.token_id == 4
    assert told.logprob == pytest.approx(float(own[4]), rel=1e-12)
    assert told.rank == int((own > own[4]).sum()) + 1
    assert told.top_token_ids == own.topk(2).indices.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("stops", "expected"), [((), 0), ((31, EOS), EOS), ((VOCAB + 3,), 0)])
def test_a_row_that_may_take_nothing_ends_with_its_lowest_stop_token_and_disturbs_no_other(
    temperature: float, stops: tuple[int, ...], expected: int
) -> None:
    params = [SamplingParams(temperature=temperature)] * 4
    logits = random_logits(4)
    clean = sample_rows(logits, params, stops=stops).token_ids
    logits[1] = torch.nan
    broken = sample_rows(logits, params, stops=stops, masks=[(2, bytes(VOCAB // 8))]).token_ids
    assert broken.tolist() == [clean[0], expected, expected, clean[3]]


def test_a_nan_among_the_logits_is_never_sampled() -> None:
    logits = random_logits(200)
    logits[:, ::2] = torch.nan
    assert (sample_rows(logits, [SamplingParams(temperature=3)] * 200).token_ids % 2 == 1).all()


def test_a_copied_row_has_its_parents_parameters_and_its_own_numbers() -> None:
    table = SamplingTable()
    table.set_row(0, SamplingParams(temperature=5, logit_bias={2: 1.0}), 1, 0, [EOS])
    for row in range(1, 300):
        table.copy_row(0, row, row)
    copied = sample(random_logits(1).expand(300, -1), table, np.arange(300), np.zeros(300, int), no_history, [])
    assert len(set(copied.token_ids.tolist())) > VOCAB // 2
    table.copy_row(0, 5, 0)
    rows = np.array([0, 5])
    same = sample(random_logits(1).expand(2, -1), table, rows, np.zeros(2, int), no_history, [])
    assert same.token_ids[0] == same.token_ids[1]


def test_a_row_used_again_keeps_nothing_of_the_one_before() -> None:
    table = SamplingTable()
    greedy = SamplingParams(temperature=0)
    table.set_row(3, SamplingParams(allowed_token_ids=[5], prompt_logprobs=2, logprobs=1), 1, 0, [EOS])
    assert table.num_prompt_logprobs(3) == 2
    table.clear_row(3)
    table.set_row(3, greedy, 2, 0, [])
    logits = random_logits(1)
    result = sample(logits, table, np.array([3]), np.zeros(1, int), no_history, [])
    assert int(result.token_ids[0]) == int(logits.argmax())
    assert result.logprobs == [None]
    assert table.num_prompt_logprobs(3) == -1


def test_the_table_grows_to_any_row() -> None:
    table = make_table([SamplingParams(temperature=0)])
    table.set_row(1000, SamplingParams(temperature=0, logit_bias={11: 50.0}), 2**64 - 1, 0, [])
    logits = random_logits(2)
    result = sample(logits, table, np.array([1000, 0]), np.zeros(2, int), no_history, [])
    assert result.token_ids.tolist() == [11, int(logits[1].argmax())]


def test_numbers_larger_than_the_table_holds_mean_all_tokens_and_never() -> None:
    huge = 2**70
    table = make_table(
        [SamplingParams(top_k=huge, logprobs=huge, min_tokens=huge, max_tokens=None), SamplingParams(logprobs=VOCAB)]
    )
    table.copy_row(0, 1, 0)
    table.set_row(0, SamplingParams(logprobs=VOCAB, min_tokens=9), 5, 0, [EOS])
    result = sample(random_logits(1).expand(2, -1), table, np.array([0, 1]), np.full(2, 4), history, [])
    assert result.token_ids[0] == result.token_ids[1]
    assert result.logprobs[0] == result.logprobs[1]
    table.set_row(0, SamplingParams(prompt_logprobs=huge), 5, 0, [])
    assert table.num_prompt_logprobs(0) > VOCAB


def test_clearing_a_row_twice_or_one_never_set_does_no_harm() -> None:
    table = make_table([SamplingParams(temperature=0)])
    for row in (5, 1000, 5):
        table.clear_row(row)
    logits = random_logits(1)
    result = sample(logits, table, np.array([0]), np.zeros(1, int), no_history, [])
    assert int(result.token_ids[0]) == int(logits.argmax())
    table.clear_row(0)
    table.clear_row(0)
