"""Whatever one request holds, it fails alone: faults put into sampling, grammars, the model and the books."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from octavo import LLM
from octavo.config import EngineConfig
from octavo.engine.engine import MAX_FAILED_STEPS, Engine
from octavo.errors import EngineError
from octavo.execution.local import LocalExecutor
from octavo.kernels.sampling.interface import SamplingBatch
from octavo.sampling_params import (
    MAX_REPETITION_PENALTY,
    MIN_REPETITION_PENALTY,
    BeamSearchParams,
    SamplingParams,
)
from octavo.scheduling import EngineRequest
from octavo.scheduling.messages import SequenceUpdate
from octavo.structured_outputs import Grammar
from scheduling.checking import check_engine
from tiny_checkpoints import make_llama
from toy_grammars import KINDS

CURSED = 666
"""The seed of the request that is to fail."""


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    folder = make_llama(tmp_path_factory.mktemp("tiny"))
    config = EngineConfig(model=str(folder), kv_cache_memory="256KiB", block_size=4)
    yield (executor := LocalExecutor(config, grammars=KINDS))
    executor.close()


def engine_of(executor: LocalExecutor, **limits) -> Engine:
    return Engine(executor, **{"max_num_seqs": 16, "max_num_batched_tokens": 64, **limits})


def request(name: str, **params) -> EngineRequest:
    values = {"max_tokens": 8, "ignore_eos": True, **params}
    return EngineRequest(name, [3, 1, 4, 1, 5, 9, sum(name.encode()) % 50], SamplingParams(**values), 0.0, seed=7)


def others() -> list[EngineRequest]:
    """Of every kind that may stand beside a faulty one."""
    beams = BeamSearchParams(beam_width=3, max_tokens=8, ignore_eos=True).sampling_params()
    return [
        request("greedy", temperature=0),
        request("random", n=3, logprobs=2),
        request("scored", prompt_logprobs=1),
        EngineRequest("beams", [2, 7, 1], beams, 0.0),
        request("biased", logit_bias={5: 3.0}, repetition_penalty=1.2),
        msgspec.structs.replace(request("odd"), grammar=Grammar("alternating")),
    ]


def run(engine: Engine) -> tuple[dict[str, list[SequenceUpdate]], dict[str, str]]:
    """What each request was given, and of those that failed why."""
    got: dict[str, list[SequenceUpdate]] = {}
    errors: dict[str, str] = {}
    while engine.has_unfinished:
        for update in engine.step():
            assert update.request_id not in errors, "nothing follows a failure"
            if update.error is not None:
                errors[update.request_id] = update.error
            got.setdefault(update.request_id, []).extend(update.sequences)
        check_engine(engine)
    assert engine.ledger().num_used_blocks == 0
    return got, errors


@pytest.fixture(scope="module")
def wanted(executor):
    engine = engine_of(executor)
    for each in others():
        engine.add(each)
    got, errors = run(engine)
    assert not errors
    return got


def run_beside(executor, faulty: EngineRequest, wanted, **limits) -> str:
    """Run a request that is to fail in the middle of all others, which must get what they get without it. Returns why
    it failed."""
    engine = engine_of(executor, **limits)
    work = others()
    for each in [*work[:3], faulty, *work[3:]]:
        engine.add(each)
    got, errors = run(engine)
    assert set(errors) == {faulty.request_id}
    assert {name: updates for name, updates in got.items() if name != faulty.request_id} == wanted
    return errors[faulty.request_id]


@pytest.fixture
def cursed_sampling(executor, monkeypatch):
    """Sampling raises wherever a row of the cursed seed is in the batch, at its third token."""
    sample = executor.runner.kernels.sample

    def sample_or_raise(logits: torch.Tensor, batch: SamplingBatch) -> Any:
        if not batch.is_plain and ((batch.parameters["seed"] == CURSED) & (batch.positions == 2)).any():
            raise IndexError("a cursed row")
        return sample(logits, batch)

    monkeypatch.setattr(executor.runner.kernels, "sample", sample_or_raise)


@pytest.mark.parametrize("limits", [{}, {"max_num_seqs": 4}], ids=["all at once", "some waiting"])
@pytest.mark.parametrize("params", [{"n": 2}, {"logprobs": 1}, {"prompt_logprobs": 0}])
def test_a_row_that_cannot_be_sampled_fails_its_own_request(executor, wanted, cursed_sampling, params, limits):
    faulty = request("cursed", seed=CURSED, **params)
    assert run_beside(executor, faulty, wanted, **limits) == "IndexError: a cursed row"


def beams_of_two(**params) -> EngineRequest:
    search = BeamSearchParams(beam_width=2, max_tokens=4, ignore_eos=True).sampling_params()
    for name, value in params.items():
        msgspec.structs.force_setattr(search, name, value)  # past its own checks
    return EngineRequest("cursed", [1, 2, 5], search, 0.0)


def test_beams_that_cannot_be_searched_fail_their_own_request(executor, wanted, monkeypatch):
    sample = executor.runner.kernels.sample

    def sample_or_raise(logits: torch.Tensor, batch: SamplingBatch) -> Any:
        if not batch.is_plain and ((batch.parameters["num_candidates"] == 2) & (batch.positions == 2)).any():
            raise IndexError("cursed beams")
        return sample(logits, batch)

    monkeypatch.setattr(executor.runner.kernels, "sample", sample_or_raise)
    assert run_beside(executor, beams_of_two(), wanted) == "IndexError: cursed beams"


@pytest.mark.parametrize("penalty", [MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY])
def test_beams_whose_penalty_makes_no_numbers_of_masked_tokens_take_allowed_ones(executor, penalty):
    engine = engine_of(executor)
    engine.add(beams_of_two(allowed_token_ids=[5, 6], repetition_penalty=penalty))
    got, errors = run(engine)
    assert not errors
    assert {token for update in got["cursed"] for token in update.token_ids} <= {5, 6}


@pytest.mark.parametrize("error", ["MemoryError", "ValueError", "RecursionError"])
def test_a_grammar_that_raises_fails_its_own_request(executor, wanted, error):
    faulty = msgspec.structs.replace(request("cursed", n=2), grammar=Grammar("failing", error))
    assert run_beside(executor, faulty, wanted).startswith(error)


@pytest.mark.parametrize("params", [{"temperature": 0}, {"n": 2}, {"logit_bias": {3: 1.0}}])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_finite_numbers_fail_their_own_request(executor, wanted, monkeypatch, value, params):
    runner, faulty = executor.runner, request("cursed", **params)
    num_prompt, choose, logits_of = len(faulty.prompt_token_ids), runner._choose, runner.forward.logits
    cursed = np.zeros(0, np.int64)

    def choose_of_broken(rows, num_ahead, places, launched):
        nonlocal cursed
        is_cursed = [runner.rows.tokens[row, :num_prompt].tolist() == faulty.prompt_token_ids for row in rows]
        cursed = places[is_cursed & (runner.rows.num_generated(rows) == 2)]
        return choose(rows, num_ahead, places, launched)

    def broken_logits(places: np.ndarray) -> Any:
        logits = logits_of(places)
        logits[np.flatnonzero(np.isin(places, cursed))] = value
        return logits

    monkeypatch.setattr(runner, "_choose", choose_of_broken)
    monkeypatch.setattr(runner.forward, "logits", broken_logits)
    assert "finite" in run_beside(executor, faulty, wanted)


def test_greedy_rows_without_finite_logits_fail_alone_too(executor, monkeypatch):
    """All rows are greedy, so their tokens are found while logits are computed."""
    forward = executor.runner.forward
    most_likely, calls = forward.most_likely, []

    def broken_at_last(places, fallback):
        calls.append(len(places))
        token_ids, broken = most_likely(places, fallback)
        return token_ids, torch.arange(len(broken)) == 1 if len(calls) == 3 else broken

    monkeypatch.setattr(forward, "most_likely", broken_at_last)
    engine = engine_of(executor)
    for number in range(3):
        engine.add(request(f"greedy {number}", temperature=0))
    got, errors = run(engine)
    assert list(errors) == ["greedy 1"]
    assert [sum(len(own.token_ids) for own in got[name]) for name in sorted(got)] == [8, 2, 8]


def test_a_prompt_whose_scores_cannot_be_told_fails_alone(executor, wanted, monkeypatch):
    score = executor.runner.kernels.score

    def score_or_raise(logits, token_ids, num_top):
        if num_top == 3:
            raise ValueError("no score")
        return score(logits, token_ids, num_top)

    monkeypatch.setattr(executor.runner.kernels, "score", score_or_raise)
    assert run_beside(executor, request("cursed", prompt_logprobs=3), wanted) == "ValueError: no score"


def test_a_step_that_fails_ends_its_requests_and_none_that_waits(executor, wanted, monkeypatch):
    """Where a forward pass fails nobody knows for whom."""
    forward, calls = executor.runner.forward.run, []

    def run_or_raise(batch):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("a broken forward pass")
        return forward(batch)

    monkeypatch.setattr(executor.runner.forward, "run", run_or_raise)
    engine = engine_of(executor, max_num_seqs=4)
    for each in others():
        engine.add(each)
    got, errors = run(engine)
    assert errors == dict.fromkeys(["greedy", "random"], "RuntimeError: a broken forward pass")
    for name in set(wanted) - set(errors):
        assert got[name] == wanted[name]


@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_what_was_preempted_outlives_a_step_that_fails(tmp_path, monkeypatch, mode):
    config = EngineConfig(
        model=str(make_llama(tmp_path)),
        kv_cache_memory="64KiB",
        swap_space="64KiB",
        block_size=4,
        max_model_len=64,
        speculate="off",
    )
    executor = LocalExecutor(config)
    work = [request(str(number), max_tokens=30, n=2) for number in range(8)]

    def run_all(fail_after_preemption: bool):
        engine = engine_of(executor, preemption_mode=mode)
        for each in work:
            engine.add(each)
        got: dict[tuple[str, int], list[int]] = {}
        errors: dict[str, str] = {}
        while engine.has_unfinished:
            is_first = fail_after_preemption and not errors and engine.scheduler.num_preemptions > 1
            with monkeypatch.context() as patch:
                if is_first:
                    patch.setattr(executor.runner.forward, "run", lambda batch: 1 / 0)
                updates = engine.step()
            for update in updates:
                if update.error is not None:
                    errors[update.request_id] = update.error
                for sequence in update.sequences:
                    got.setdefault((update.request_id, sequence.index), []).extend(sequence.token_ids)
            check_engine(engine)
        assert engine.ledger().num_used_blocks == 0
        return got, errors

    wanted, _ = run_all(fail_after_preemption=False)
    got, errors = run_all(fail_after_preemption=True)
    assert 0 < len(errors) < 8
    assert {key: tokens for key, tokens in got.items() if key[0] not in errors} == {
        key: tokens for key, tokens in wanted.items() if key[0] not in errors
    }
    executor.close()


@pytest.mark.parametrize("method", ["schedule", "update"])
def test_an_error_in_the_books_ends_what_has_begun_and_nothing_else(executor, wanted, monkeypatch, method):
    engine = engine_of(executor, max_num_seqs=4)
    for each in others():
        engine.add(each)
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.scheduler, method, lambda *_: 1 / 0)
        updates = engine.step()
    assert {update.request_id: update.error for update in updates} == dict.fromkeys(
        ["greedy", "random"], "ZeroDivisionError: division by zero"
    )
    got, errors = run(engine)
    assert not errors
    for name in set(wanted) - {"greedy", "random"}:
        assert got[name] == wanted[name]


def test_steps_that_fail_one_after_the_other_end_the_engine_with_a_clear_error(executor, monkeypatch):
    monkeypatch.setattr(executor.runner.forward, "run", lambda batch: 1 / 0)
    engine = engine_of(executor, max_num_seqs=1)
    for number in range(2 * MAX_FAILED_STEPS):
        engine.add(request(str(number)))
    failed = [update for _ in range(MAX_FAILED_STEPS - 1) for update in engine.step()]
    assert len(failed) == MAX_FAILED_STEPS - 1
    with pytest.raises(EngineError, match=r"8 steps in a row have failed, the last one with ZeroDivisionError"):
        engine.step()
    assert not engine.has_unfinished


def test_an_offline_request_that_fails_says_so_and_the_others_are_whole(tmp_path, monkeypatch, caplog):
    with LLM(str(make_llama(tmp_path)), tokenizer="smollm2", kv_cache_memory="1MiB") as llm:
        params = [SamplingParams(max_tokens=5, ignore_eos=True, seed=seed) for seed in (1, CURSED, 2)]
        wanted = llm.generate([[1, 2]] * 3, params, use_tqdm=False)
        assert isinstance(llm.engine.executor, LocalExecutor)
        kernels = llm.engine.executor.runner.kernels
        sample = kernels.sample

        def sample_or_raise(logits, batch):
            assert not (batch.parameters["seed"] == CURSED).any(), "a cursed row"
            return sample(logits, batch)

        monkeypatch.setattr(kernels, "sample", sample_or_raise)
        got = llm.generate([[1, 2]] * 3, params, use_tqdm=False)
        assert [output.outputs[0].finish_reason for output in got] == ["length", "error", "length"]
        assert "a cursed row" in caplog.text
        assert [got[i].outputs[0].token_ids for i in (0, 2)] == [wanted[i].outputs[0].token_ids for i in (0, 2)]
