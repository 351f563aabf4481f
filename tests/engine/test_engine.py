"""The step loop over a real (tiny) model: grammars, aborts at any moment, scores, errors."""

import random
import zlib
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import EngineError, RequestError
from octavo.execution.executor import ExecutionTimes, PendingOutput
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import Plan, StepOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from octavo.structured_outputs import Grammar, ReasoningSection
from scheduling.checking import check_engine
from tiny_checkpoints import make_llama
from toy_grammars import KINDS


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    folder = make_llama(tmp_path_factory.mktemp("tiny"))
    config = EngineConfig(model=str(folder), kv_cache_memory="256KiB", block_size=4)
    yield (executor := LocalExecutor(config, grammars=KINDS))
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        executor.submit(Plan())


@pytest.fixture
def engine(executor):
    engine = Engine(executor, max_num_seqs=16, max_num_batched_tokens=64)
    yield engine
    assert engine.ledger().num_used_blocks == 0, "the test left blocks behind"


def request(name: str, prompt: list[int], **params) -> EngineRequest:
    return EngineRequest(name, prompt, SamplingParams(**params), arrival_s=0.0, seed=zlib.crc32(name.encode()) % 1000)


def run(engine: Engine) -> dict[str, dict[int, list[int]]]:
    got: dict[str, dict[int, list[int]]] = {}
    while engine.has_unfinished:
        for update in engine.step():
            for sequence in update.sequences:
                got.setdefault(update.request_id, {}).setdefault(sequence.index, []).extend(sequence.token_ids)
        check_engine(engine)
    return got


def test_a_grammar_decides_at_every_token_from_the_tokens_before_it(engine):
    params = {"max_tokens": 8, "n": 3, "temperature": 2.0, "ignore_eos": True}
    free = request("free", [1, 2, 3], **params)
    grammars = {"alternating": Grammar("alternating"), "fives": Grammar("multiples", "5")}
    engine.add(free)
    for name, grammar in grammars.items():
        engine.add(msgspec.structs.replace(free, request_id=name, grammar=grammar))
    got = run(engine)
    for token_ids in got["alternating"].values():
        assert [token % 2 for token in token_ids] == [1, 0] * 4
    for token_ids in got["fives"].values():
        assert [token % 5 for token in token_ids] == [0] * 8
    assert len(set(map(tuple, got["fives"].values()))) > 1
    assert not any(token_ids in got["free"].values() for name in grammars for token_ids in got[name].values())


@pytest.mark.parametrize(
    ("wants", "words"),
    [
        (
            {"grammar": Grammar("json", "{}")},
            "kind of grammar 'json' .* knows alternating, changing, failing, multiples",
        ),
        ({"adapter": "french"}, "adapter 'french' .* knows none"),
        ({"task": "classify"}, "no task 'classify'"),
    ],
)
def test_what_the_executor_does_not_know_is_refused_by_name(engine, wants, words):
    with pytest.raises(RequestError, match=words):
        engine.add(msgspec.structs.replace(request("a", [5], max_tokens=2), **wants))
    assert not engine.has_unfinished


def test_aborting_at_any_moment_leaves_the_others_as_they_were(engine):
    work = [request(str(i), [i + 1] * (3 + 5 * i % 40), max_tokens=12, n=1 + i % 3, ignore_eos=True) for i in range(12)]
    for each in work:
        engine.add(each)
    wanted = run(engine)
    r = random.Random(0)
    for _ in range(6):
        for each in work:
            engine.add(each)
        doomed = r.sample(range(12), 4)
        deaths = {r.randrange(14): str(name) for name in doomed}
        got: dict[str, dict[int, list[int]]] = {}
        for step in range(1000):
            if step in deaths:
                engine.abort(deaths[step])
            if not engine.has_unfinished:
                break
            for update in engine.step():
                assert update.request_id not in [name for at, name in deaths.items() if at <= step]
                for sequence in update.sequences:
                    got.setdefault(update.request_id, {}).setdefault(sequence.index, []).extend(sequence.token_ids)
            check_engine(engine)
        for name in set(wanted) - set(deaths.values()):
            assert got[name] == wanted[name]


def test_one_sequence_of_a_request_may_be_aborted(engine):
    engine.add(request("a", [5, 6, 7], max_tokens=10, n=3, ignore_eos=True))
    engine.step()
    assert engine.abort("a", 1)
    assert not engine.abort("a", 1)
    got = run(engine)
    assert sorted(got["a"]) == [0, 2]
    assert not engine.abort("a")


def test_a_request_id_in_use_is_refused(engine):
    engine.add(request("a", [5], max_tokens=2))
    with pytest.raises(RequestError, match="'a' is already in use"):
        engine.add(request("a", [6], max_tokens=2))
    run(engine)


class Failing:
    """An executor that fails at a chosen moment, and otherwise does what the real one does."""

    def __init__(self, executor: LocalExecutor, error: BaseException, fail_in: str) -> None:
        self.capacity, self.loaded, self.depth, self.sockets = executor.capacity, executor.loaded, 1, executor.sockets
        self._executor, self._error, self._fail_in = executor, error, fail_in
        self.left = 3

    def submit(self, plan: Plan) -> PendingOutput:
        self.left -= 1
        if self.left == 0 and self._fail_in == "submit":
            raise self._error
        pending = self._executor.submit(plan)

        def result() -> StepOutput:
            if self.left == 0 and self._fail_in == "result":
                raise self._error
            return pending.result()

        return PendingOutput(result)

    def prepare(self, wanted: Grammar | ReasoningSection) -> Future[Any]:
        return self._executor.prepare(wanted)

    def check(self) -> None:
        self._executor.check()

    def times(self) -> ExecutionTimes:
        return self._executor.times()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("fail_in", ["submit", "result", "mask"])
def test_an_interrupted_step_drops_every_request_and_leaves_the_engine_as_new(executor, fail_in):
    engine = Engine(Failing(executor, KeyboardInterrupt(), fail_in), max_num_seqs=16, max_num_batched_tokens=64)
    first = request("first", [1, 2, 3], max_tokens=6, n=3, ignore_eos=True)
    fresh = Engine(executor, max_num_seqs=16, max_num_batched_tokens=64)
    fresh.add(first)
    wanted = run(fresh)
    failing = Grammar("failing", "KeyboardInterrupt") if fail_in == "mask" else None
    engine.add(msgspec.structs.replace(first, grammar=failing))
    engine.add(request("second", [4] * 30, max_tokens=6, n=2, ignore_eos=True))
    with pytest.raises(KeyboardInterrupt):
        run(engine)
    assert not engine.has_unfinished
    assert engine.ledger().num_used_blocks == 0
    engine.add(first)
    assert run(engine) == wanted
