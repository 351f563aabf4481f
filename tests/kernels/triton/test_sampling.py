"""Sampling with Triton's kernels, in its interpreter: what the reference gives, token for token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from octavo.kernels.reference import ReferenceKernels
from octavo.kernels.sampling.interface import Sampled, SamplingBatch
from octavo.kernels.sampling.truncation import Cutoffs, truncate
from octavo.kernels.triton import edits, logprobs, maxima, race, truncation
from octavo.kernels.triton.kernels import TritonKernels
from octavo.kernels.triton.logits_pieces import GROUP, PIECE, Rows
from octavo.kernels.upload import upload_together
from octavo.sampling.table import SamplingTable
from octavo.sampling_params import SamplingParams

REFERENCE, TRITON = ReferenceKernels(), TritonKernels()
STOP = 2


@dataclass(frozen=True)
class Row:
    """How one row is sampled, and what it has seen."""

    params: SamplingParams
    num_candidates: int = 0
    mask: bytes | None = None
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()


def batch_of(rows: list[Row]) -> SamplingBatch:
    table = SamplingTable()
    for number, row in enumerate(rows):
        table.set_row(number, row.params, 5 + number, number % 2, [STOP], row.num_candidates, row.bad_words)
    numbers = np.arange(len(rows))
    masks = [(number, row.mask) for number, row in enumerate(rows) if row.mask is not None]
    if plain := table.plain_batch(numbers, masks):
        return plain
    seen = [(np.array(row.prompt, np.int32), np.array(row.output, np.int32)) for row in rows]
    return table.batch(numbers, np.array([len(row.output) for row in rows]), lambda row, _: seen[row], masks)


def check(logits: torch.Tensor, batch: SamplingBatch) -> Sampled:
    """Both backends give the same; numbers but for rounding."""
    before = logits.clone()
    ours, theirs = TRITON.sample(logits, batch), REFERENCE.sample(logits.float(), batch)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert ours.broken.tolist() == theirs.broken.tolist()
    assert ours.broken.dtype == torch.bool
    same(ours.scores, theirs.scores)
    if ours.candidates is None or theirs.candidates is None:
        assert ours.candidates is theirs.candidates
    else:
        assert ours.candidates.token_ids.tolist() == theirs.candidates.token_ids.tolist()
        torch.testing.assert_close(ours.candidates.logprobs, theirs.candidates.logprobs, atol=1e-5, rtol=1e-5)
        same(ours.candidates.scores, theirs.candidates.scores)
    return ours


def same(ours: Any, theirs: Any) -> None:
    """Of scores."""
    if ours is None or theirs is None:
        assert ours is theirs
        return
    for name in ("token_ids", "ranks", "top_token_ids"):
        assert getattr(ours, name).tolist() == getattr(theirs, name).tolist()
    for name in ("logprobs", "top_logprobs"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=1e-5)


def random_logits(num_rows: int, vocab_size: int, seed: int, decimals: int = 6) -> torch.Tensor:
    numbers = np.random.default_rng(seed).normal(size=(num_rows, vocab_size)) * 3
    return torch.from_numpy(np.round(numbers, decimals)).float()


# Ids of up to 45: of the smaller vocabularies some lie outside.
tokens = st.lists(st.integers(0, 45), min_size=1, max_size=9, unique=True)
seen = st.lists(st.integers(0, 45), max_size=12).map(tuple)
rows = st.builds(
    Row,
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1e-40, 0.7, 1.0, 3.0]),
        top_k=st.sampled_from([0, 1, 3, 20, 60, 2**70]),
        top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
        min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
        frequency_penalty=st.sampled_from([0.0, 0.4, -1.0]),
        presence_penalty=st.sampled_from([0.0, 0.6]),
        min_tokens=st.integers(0, 8),
        logit_bias=st.one_of(st.none(), st.dictionaries(st.integers(0, 45), st.floats(-5, 5), max_size=5)),
        allowed_token_ids=st.one_of(st.none(), tokens),
        logprobs=st.sampled_from([None, 0, 3, 100]),
    ),
    num_candidates=st.sampled_from([0, 0, 0, 4, 100]),
    mask=st.one_of(st.none(), st.none(), st.binary(min_size=1, max_size=9)),
    prompt=seen,
    output=seen,
    bad_words=st.sampled_from([(), ((3,), (7, 8))]),
)
odd_numbers = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 30), st.sampled_from([torch.nan, torch.inf, -torch.inf])), max_size=4
)


@settings(max_examples=30, derandomize=True)
@given(
    rows=st.lists(rows, min_size=1, max_size=3),
    vocab_size=st.sampled_from([1, 31, 97, 300]),
    decimals=st.sampled_from([0, 6]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    odd=odd_numbers,
    seed=st.integers(0, 2**32),
)
def test_a_batch_is_sampled_as_by_the_reference(
    rows: list[Row],
    vocab_size: int,
    decimals: int,
    dtype: torch.dtype,
    odd: list[tuple[int, int, float]],
    seed: int,
) -> None:
    logits = random_logits(len(rows), vocab_size, seed, decimals).to(dtype)
    for row, token, value in odd:
        logits[row % len(rows), token % vocab_size] = value
    check(logits, batch_of(rows))


GREEDY, DRAWN = SamplingParams(temperature=0), SamplingParams(temperature=1.5)


def test_tokens_that_rows_name_are_scored_beside_the_chosen_one() -> None:
    rows = [
        Row(SamplingParams(temperature=0, logprob_token_ids=[30, 2])),
        Row(SamplingParams(temperature=0.7, logprobs=3)),
        Row(GREEDY),
        Row(SamplingParams(logprobs=2), num_candidates=4),
        Row(SamplingParams(temperature=2.0, logprob_token_ids=[0, 1, 2, 40])),
    ]
    sampled = check(random_logits(len(rows), 97, seed=3), batch_of(rows))
    assert sampled.scores is not None
    assert sampled.scores.token_ids[:, 1:].tolist()[::2] == [[30, 2] + [int(sampled.token_ids[0])] * 2, [0, 1, 2, 40]]


def test_likeliest_tokens_alone_take_two_launches_and_ties_go_to_the_lowest_id(launched: list[str]) -> None:
    inf, nan = torch.inf, torch.nan
    rows = [[1, 3, 2, 3], [nan, 3, 4, 0], [nan, nan, -inf, nan], [-inf] * 4, [0, inf, 2, inf], [-3, -2, -2, -5]]
    batch = batch_of([Row(GREEDY)] * len(rows))
    assert batch.is_plain
    sampled = check(torch.tensor(rows), batch)
    assert sampled.token_ids.tolist() == [1, 2, STOP, STOP, 1, 1]
    assert sampled.broken.tolist() == [False, True, True, True, True, False]
    assert launched == ["find_piece_maxima", "merge_piece_maxima"]


def test_rows_longer_than_a_piece_are_sampled_as_by_the_reference() -> None:
    vocab_size = PIECE + GROUP + 5
    logits = random_logits(9, vocab_size, 1)
    logits[1, [7, PIECE - 1, PIECE, vocab_size - 1]] = 50  # equals on both sides of the edge
    logits[2] = 0  # all are equal, and none is cut
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0},
        {"top_k": 5},
        {"top_k": 100},  # more than there are groups
        {"top_k": 3, "top_p": 0.9},
        {"top_p": 0.9, "temperature": 3},
        {"min_p": 0.01},
        {"allowed_token_ids": [0, PIECE - 1, PIECE, vocab_size - 1], "logprobs": 3},
        {"logit_bias": {PIECE: 40.0, vocab_size - 1: 39.0, 0: 39.5}, "logprobs": 3},
    ]
    check(logits, batch_of([Row(SamplingParams(**kind)) for kind in kinds]))
    check(logits[:2], batch_of([Row(GREEDY)] * 2))
    check(logits[7:], batch_of([Row(GREEDY, num_candidates=5)] * 2))


def test_the_same_seeds_give_the_references_tokens() -> None:
    logits = random_logits(120, 60, 3)
    sampled = check(logits, batch_of([Row(DRAWN)] * 120))
    assert (sampled.token_ids != logits.argmax(dim=-1)).sum() > 50, "the draws are draws"


def test_equals_at_the_edge_of_a_truncation_are_kept_together() -> None:
    kinds: list[dict[str, Any]] = [{"top_k": 2}, {"top_p": 0.72}, {"top_k": 5, "top_p": 0.75}]
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, -2.0, 1.0, 0.5]]).repeat(24, 1)
    sampled = check(logits, batch_of([Row(SamplingParams(temperature=3, **kind)) for kind in kinds * 8]))
    assert set(sampled.token_ids.tolist()) == {0, 1, 2, 3, 5}


@settings(max_examples=20, derandomize=True)
@given(
    cutoffs=st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 7, 40, 299]), st.sampled_from([1.0, 0.99, 0.7, 0.2])),
        min_size=1,
        max_size=3,
    ),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    decimals=st.sampled_from([1, 6]),
    seed=st.integers(0, 2**32),
)
def test_top_k_and_top_p_keep_the_references_tokens(
    cutoffs: list[tuple[int, float]], spread: float, decimals: int, seed: int
) -> None:
    """GROUP tokens are a group of the bound's, so there are two groups here."""
    logits = random_logits(len(cutoffs), GROUP + 44, seed, decimals) * spread
    top_k, top_p = torch.tensor([k for k, _ in cutoffs]), torch.tensor([p for _, p in cutoffs], dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    least = torch.zeros(len(logits))
    for group in truncate(probabilities, Cutoffs(top_k, top_p, torch.zeros_like(top_p))):
        kept = group.probabilities.masked_fill(group.probabilities == 0, 1)
        least[group.rows] = kept.amin(dim=-1) / probabilities[group.rows].amax(dim=-1)
    rows, numbers = Rows(logits), torch.ones(len(logits))
    found = maxima.find_maxima(rows, torch.zeros(len(logits), dtype=torch.int64))
    cut = torch.arange(len(logits), dtype=torch.int32)
    floors = torch.zeros(len(logits))
    truncation.find_floors(floors, rows, cut, found, numbers, top_k.to(torch.int32), top_p)
    is_cut = (top_k > 0) | (top_p < 1)
    torch.testing.assert_close(floors, least.where(is_cut, 0), rtol=1e-6, atol=0)


def test_a_row_that_may_take_nothing_gets_its_fallback_however_it_is_sampled() -> None:
    nothing = bytes(2)
    rows = [Row(GREEDY, mask=nothing), Row(DRAWN, mask=nothing), Row(SamplingParams(top_k=2, top_p=0.5), mask=nothing)]
    sampled = check(random_logits(4, 12, 0), batch_of([*rows, Row(DRAWN)]))
    assert sampled.token_ids[:3].tolist() == [STOP] * 3
    assert not sampled.broken.any()


def test_a_rows_result_does_not_depend_on_the_rest_of_the_batch() -> None:
    edited: dict[str, Any] = {"logit_bias": {3: 2.0}, "presence_penalty": 0.5, "logprobs": 2}
    rows = [
        Row(GREEDY),
        Row(SamplingParams(temperature=0.8, top_k=9, top_p=0.8, **edited), prompt=(1, 2), output=(3, 3)),
        Row(SamplingParams(top_p=0.6)),
        Row(GREEDY, num_candidates=4),
        Row(SamplingParams(temperature=0, **edited), num_candidates=6, output=(5,)),
    ]
    logits, batch = random_logits(5, 400, 8), batch_of(rows)
    together = TRITON.sample(logits, batch)
    assert together.scores is not None
    assert together.candidates is not None
    for place in range(5):
        alone = TRITON.sample(logits[place : place + 1], batch.at(np.array([place])))
        assert alone.token_ids[0] == together.token_ids[place]
        if alone.scores is not None:
            assert torch.equal(alone.scores.logprobs[0], together.scores.logprobs[0])
        if alone.candidates is not None:
            count = int(batch.parameters["num_candidates"][place])
            assert torch.equal(alone.candidates.logprobs[0], together.candidates.logprobs[place - 3, :count])


def test_given_tokens_are_scored_as_by_the_reference() -> None:
    logits = random_logits(5, 50, 2, decimals=0)
    logits[1, 7], logits[2] = torch.nan, -torch.inf
    logits[3, :2] = torch.tensor([0.0, -0.0])
    token_ids = torch.tensor([[3, 9], [7, 1], [0, 4], [1, 0], [49, 49]])
    for num_top in (0, 1, 12, 99):
        same(TRITON.score(logits, token_ids, num_top), REFERENCE.score(logits, token_ids, num_top))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched. On tensors without memory they do nothing."""
    names: list[str] = []

    class Watched:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def launch(*arguments: Any, **constants: Any) -> None:
                names.append(self.kernel.fn.__name__)
                if arguments[0].device.type != "meta":
                    self.kernel[grid](*arguments, **constants)

            return launch

    launchable = {
        maxima: ("find_piece_maxima", "merge_piece_maxima"),
        truncation: ("bound_floors", "gather_candidates", "search_floors"),
        race: ("race_pieces", "settle_races"),
        edits: ("mask_logits", "add_to_logits", "count_tokens", "penalise_logits"),
        logprobs: ("make_keys",),
    }
    for module, kernels in launchable.items():
        for kernel in kernels:
            monkeypatch.setattr(module, kernel, Watched(getattr(module, kernel)))
    return names


class Uploads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts copies from the host to tensors without memory."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **kwargs or {})
        devices = [each.device.type for each in (*args, result) if isinstance(each, torch.Tensor)]
        self.count += {"cpu", "meta"} <= set(devices)
        return result


def test_nothing_waits_for_the_device(launched: list[str]) -> None:
    """A meta tensor has no numbers: whatever waits for one, looks at one, or has a shape that follows from one, fails.
    All that a step may ask for takes one copy and 15 launches of ours, however many rows ask."""
    everything: dict[str, Any] = {
        "logprobs": 2,
        "logit_bias": {1: 1.0},
        "presence_penalty": 0.1,
        "allowed_token_ids": [1, 2, 3],
    }
    drawn = SamplingParams(top_k=5, top_p=0.9, min_p=0.1, min_tokens=9, **everything)
    searched = Row(SamplingParams(temperature=0, **everything), num_candidates=3, mask=b"ab", output=(3,))
    batch = batch_of([Row(drawn, prompt=(1,), output=(2,)), Row(DRAWN), Row(GREEDY), searched] * 8)
    with Uploads() as uploads:  # type: ignore[no-untyped-call]
        sampled = TRITON.sample(torch.empty(32, 50_000, dtype=torch.float16, device="meta"), batch)
    assert uploads.count == 1
    assert sampled.token_ids.shape == sampled.broken.shape == (32,)
    assert sampled.scores is not None
    assert sampled.scores.top_token_ids.shape == (8, 2)
    assert sampled.candidates is not None
    assert sampled.candidates.token_ids.shape == (8, 3)
    assert sampled.candidates.scores is not None
    assert len(launched) == 15
    TRITON.sample(torch.empty(3, 50_000, device="meta"), batch_of([Row(GREEDY)] * 3))


def test_arrays_go_up_together_and_come_out_as_they_were() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.array([[1, -2], [3, 2**31 - 1]], np.int32),
        "none": np.zeros((0, 4)),
        "shares": np.array([0.1]),
        "flags": np.array([True, False, True]),
        "column": np.arange(6, dtype=np.int64).reshape(3, 2)[:, 1],
    }
    sent = upload_together(arrays, torch.device("cpu"))
    for name, array in arrays.items():
        assert sent[name].dtype == torch.from_numpy(array).dtype
        assert np.array_equal(sent[name].numpy(), array)
        assert sent[name].data_ptr() % 16 == 0
    assert len({tensor.untyped_storage().data_ptr() for tensor in sent.values()}) == 1
