"""How prompts that are pooled get into steps: told by what is in the plans."""

import random
from typing import Any

import msgspec
import pytest

from octavo.engine.engine import Engine
from octavo.errors import ContextLengthError, RequestError
from octavo.execution.executor import Capabilities
from octavo.execution.plan import Plan
from octavo.execution.simulated import SimulatedExecutor
from octavo.pooling import NOTHING_SAMPLED, Pooling, PoolingParams, numbers
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity, check_engine

WIDTH = 3


class Recorder(ShadowExecutor):
    """Keeps the plans it was given."""

    def __init__(self, pooling: Pooling, depth: int = 1, num_blocks: int = 100, num_swap_blocks: int = 0) -> None:
        tasks: Any = {"embed", "classify"} | ({"generate"} if pooling.is_causal else set())
        capabilities = Capabilities(tasks=frozenset(tasks), pooling=pooling, embedding_width=WIDTH)
        sizes: dict[str, Any] = {"max_model_len": 64, "num_swap_blocks": num_swap_blocks, "capabilities": capabilities}
        super().__init__(capacity(num_blocks, 4, **sizes), depth)
        self.plans: list[Plan] = []

    def submit(self, plan):
        self.plans.append(plan)
        return super().submit(plan)


def embedding(name: str, num_prompt: int, first: int = 0) -> EngineRequest:
    prompt = [first + i for i in range(num_prompt)]
    return EngineRequest(name, prompt, NOTHING_SAMPLED, 0.0, task="embed", pooling=PoolingParams())


def run(engine: Engine, requests: list[EngineRequest]) -> dict[str, Any]:
    """The update that ends each request. Nothing is left then."""
    for number, request in enumerate(requests):
        engine.add(msgspec.structs.replace(request, arrival_s=float(number), seed=number))
    ends = {}
    while engine.has_unfinished:
        for update in engine.step():
            if any(sequence.finish_reason for sequence in update.sequences):
                ends[update.request_id] = update
        check_engine(engine)
    assert engine.ledger().num_used_blocks == 0
    return ends


def alone(request: EngineRequest, pooling: Pooling) -> list[float]:
    engine = Engine(Recorder(pooling), max_num_seqs=1, max_num_batched_tokens=64)
    return numbers_of(run(engine, [request])[request.request_id])


def numbers_of(update: Any) -> list[float]:
    return numbers(update.sequences[0].pooled).tolist()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_prompt_whose_tokens_see_later_ones_is_computed_in_one_step(depth: int) -> None:
    executor = Recorder(Pooling(kind="mean", is_causal=False), depth)
    engine = Engine(executor, max_num_seqs=8, max_num_batched_tokens=20)
    lengths = [12, 7, 2, 19, 20, 5, 1]
    requests = [embedding(str(i), length) for i, length in enumerate(lengths)]
    ends = run(engine, requests)
    assert sorted(count for plan in executor.plans for count in plan.num_new) == sorted(lengths)
    assert all(sum(plan.num_new) <= 20 and len(plan.pooled) == len(plan.rows) for plan in executor.plans)
    assert executor.plans[0].num_new == [12, 7]
    # They begin with the same tokens, and none has begun with another's blocks.
    assert all(update.memory.num_cached_tokens == 0 for update in ends.values())
    with pytest.raises(ContextLengthError, match=r"21 tokens are over the token budget .*--max-num-batched-tokens"):
        engine.add(embedding("long", 21))


@pytest.mark.parametrize(("kind", "num_found"), [("last", 16), ("mean", 0), ("cls", 0)])
def test_only_a_last_token_can_go_on_from_found_blocks(kind: Any, num_found: int) -> None:
    engine = Engine(Recorder(Pooling(kind=kind)), max_num_seqs=4, max_num_batched_tokens=8)
    first, second = (run(engine, [embedding(name, 18)])[name] for name in ("first", "second"))
    assert (first.memory.num_cached_tokens, second.memory.num_cached_tokens) == (0, num_found)
    # A prompt that looks nothing up still leaves its blocks to others.
    params = SamplingParams(max_tokens=1)
    [other] = run(engine, [EngineRequest("other", list(range(18)), params, 0.0)]).values()
    assert other.memory.num_cached_tokens == 16


@pytest.mark.parametrize("mode", ["recompute", "swap"])
@pytest.mark.parametrize("depth", [1, 2])
def test_numbers_are_the_same_whatever_a_prompt_goes_through(depth: int, mode: Any) -> None:
    pooling = Pooling(kind="mean")
    executor = Recorder(pooling, depth, num_blocks=24, num_swap_blocks=24)
    engine = Engine(executor, max_num_seqs=5, max_num_batched_tokens=6, preemption_mode=mode)
    rng = random.Random(0)
    pooled = [embedding(f"pooled-{i}", rng.randrange(1, 50), 100 * i) for i in range(8)]
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    generated = [EngineRequest(f"generated-{i}", [i, i + 1], params, 0.0) for i in range(16)]
    work = [each for i in range(8) for each in (generated[2 * i], generated[2 * i + 1], pooled[i])]
    ends = run(engine, work)
    assert {len(ends[each.request_id].sequences) for each in work} == {1}
    assert all(numbers_of(ends[each.request_id]) == alone(each, pooling) for each in pooled)
    assert sum(ends[each.request_id].memory.num_preemptions for each in pooled) > 0


def test_a_request_that_pools_needs_to_say_how_and_its_vector_has_no_more_numbers_than_there_are() -> None:
    engine = Engine(Recorder(Pooling()), max_num_seqs=4, max_num_batched_tokens=8)
    with pytest.raises(RequestError, match="needs its pooling parameters"):
        engine.add(msgspec.structs.replace(embedding("a", 3), pooling=None))
    with pytest.raises(RequestError, match=f"dimensions=4 is over the {WIDTH} numbers"):
        engine.add(msgspec.structs.replace(embedding("a", 3), pooling=PoolingParams(dimensions=4)))
    with pytest.raises(RequestError, match="no task 'score'; it has 'classify'"):
        engine.add(msgspec.structs.replace(embedding("a", 3), task="score"))
    assert not engine.has_unfinished


def test_an_executor_without_a_task_is_asked_for_nothing() -> None:
    engine = Engine(SimulatedExecutor(capacity(10)), max_num_seqs=4, max_num_batched_tokens=8)
    with pytest.raises(RequestError, match="no task 'embed'; it has 'generate'"):
        engine.add(embedding("a", 3))
    with pytest.raises(RequestError, match=r"no task 'generate'; it has 'classify' .*'embed'"):
        Engine(Recorder(Pooling(is_causal=False)), max_num_seqs=4, max_num_batched_tokens=8).add(
            EngineRequest("a", [1], SamplingParams(), 0.0)
        )
