"""A request waits until its grammar is compiled, and nobody waits with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavo.config import EngineConfig
from octavo.engine.engine import Engine
from octavo.errors import RequestError
from octavo.execution.local import LocalExecutor
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import Grammar
from tiny_checkpoints import make_llama
from toy_grammars import SlowGrammars


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    SlowGrammars.may_go_on.clear()
    config = EngineConfig(model=str(folder), kv_cache_memory="256KiB", block_size=4, num_threads=1)
    executor = LocalExecutor(config, grammars={"slow": "toy_grammars:SlowGrammars"})
    yield Engine.configured(executor, config)
    SlowGrammars.may_go_on.set()
    executor.close()


def request(name: str, source: str | None = None, n: int = 1, **more: Any) -> EngineRequest:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, n=n)
    grammar = None if source is None else Grammar("slow", source)
    return EngineRequest(name, [5, 6, 7], params, 0.0, grammar=grammar, **more)


def run(engine: Engine) -> dict[str, list[list[int]]]:
    """The tokens of all requests' sequences; none for one that has failed."""
    got: dict[str, dict[int, list[int]]] = {}
    while engine.has_unfinished:
        for update in engine.step():
            own = got.setdefault(update.request_id, {})
            for sequence in update.sequences:
                own.setdefault(sequence.index, []).extend(sequence.token_ids)
    return {name: [own[index] for index in sorted(own)] for name, own in got.items()}


def test_others_run_to_their_ends_while_a_grammar_is_compiled(engine: Engine) -> None:
    engine.add(request("held", "a"))
    engine.add(request("free"))
    assert engine.load.num_waiting == 2
    ended = []
    while "free" not in ended:
        ended += [update.request_id for update in engine.step() if any(each.finish_reason for each in update.sequences)]
    assert engine.has_unfinished
    assert engine.step() == []
    SlowGrammars.may_go_on.set()
    [tokens] = run(engine)["held"]
    assert [token % 2 for token in tokens] == [1, 0, 1, 0]
    engine.add(request("again", "a"))
    assert engine.scheduler.has_unfinished, "what is compiled waits for nothing"
    assert run(engine)["again"] == [tokens]


def test_a_held_request_is_checked_named_aborted_and_dropped_like_any_other(engine: Engine) -> None:
    engine.add(request("held", "a"))
    with pytest.raises(RequestError, match="already in use"):
        engine.add(request("held"))
    with pytest.raises(RequestError, match="kind of grammar"):
        engine.add(EngineRequest("odd", [5], SamplingParams(), 0.0, grammar=Grammar("odd")))
    assert engine.abort("held")
    assert not engine.abort("held")
    engine.add(request("late", "a", start_by_s=1.0))
    assert [each.request_id for each in engine.expire(2.0)] == ["late"]
    assert not engine.has_unfinished


def test_a_sequence_of_a_held_request_may_end_before_it_begins(engine: Engine) -> None:
    engine.add(request("held", "a", n=3))
    assert engine.abort("held", 1)
    SlowGrammars.may_go_on.set()
    assert len(run(engine)["held"]) == 2


def test_a_request_whose_grammar_cannot_be_compiled_fails_alone(engine: Engine) -> None:
    for name, source in (("bad", "wrong"), ("good", "a"), ("free", None)):
        engine.add(request(name, source))
    SlowGrammars.may_go_on.set()
    got = run(engine)
    assert got["bad"] == []
    assert [len(got[name][0]) for name in ("good", "free")] == [4, 4]
