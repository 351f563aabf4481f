"""Static batches: who begins together, that nobody joins, and that nobody is lost."""

from typing import Any

import pytest

from octavo.config import KVAllocation, PreemptionMode
from octavo.engine.engine import Engine
from octavo.pooling import Pooling
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from scheduling.checking import ShadowExecutor, capacity, check_engine
from scheduling.test_pooled_prompts import Recorder as PoolingRecorder
from scheduling.test_pooled_prompts import embedding
from scheduling.test_scheduler import Harness

Tokens = dict[str, list[int]]
"""By request and sequence."""


def static(**knobs: Any) -> Harness:
    return Harness(scheduling_policy="static", **knobs)


def under_way(engine: Engine) -> list[str]:
    """The requests that have begun and are not over, in order of arrival: those that run, and preempted ones."""
    queues = engine.scheduler.queues
    begun = [each for each in [*queues.running, *queues.waiting] if each.first_scheduled_s is not None]
    return [each.request_id for each in sorted(begun, key=lambda each: each.rank)]


def step_all(engine: Engine) -> tuple[list[list[str]], Tokens]:
    """Run to the end. Returns the batches, and what each sequence got; fails where somebody joins a static batch."""
    batches: list[list[str]] = []
    tokens: Tokens = {}
    while engine.has_unfinished:
        before, num_begun = under_way(engine), engine.scheduler.queues.num_begun
        for update in engine.step():
            for sequence in update.sequences:
                tokens.setdefault(f"{update.request_id}/{sequence.index}", []).extend(sequence.token_ids)
        check_engine(engine)
        may_begin = not before or not engine.scheduler.policy.is_static
        assert may_begin or engine.scheduler.queues.num_begun == num_begun, "somebody joined a batch"
        if not before and under_way(engine):
            batches.append(under_way(engine))
    return batches, tokens


def test_a_batch_is_the_first_that_wait_and_the_next_begins_when_all_of_it_is_over() -> None:
    harness = static(max_num_seqs=3)
    for number, max_tokens in enumerate((4, 12, 2, 5, 6)):
        harness.add(str(number), 4, max_tokens=max_tokens)
    running = []
    while harness.engine.has_unfinished:
        harness.step()
        running.append("".join(harness.running))
    # A step's last tokens end a request, so that it no longer runs behind the step.
    assert running == ["012", "01", "01", *["1"] * 8, "", *["34"] * 4, "4", ""]


def test_who_comes_later_waits_for_the_next_batch_though_places_are_free() -> None:
    harness = static(max_num_seqs=8)
    harness.add("first", 4, max_tokens=6)
    harness.step()
    harness.add("late", 4, max_tokens=2)
    harness.add("later", 4, max_tokens=2)
    assert step_all(harness.engine)[0] == [["late", "later"]]
    rows = [len(plan.rows) for plan in harness.executor.plans if plan.rows]
    assert rows == [1] * 6 + [2] * 2, "what is over is not computed any more"


def test_a_batch_counts_sequences_and_not_requests() -> None:
    harness = static(max_num_seqs=8)
    for name, n in (("a", 4), ("b", 3), ("c", 2), ("d", 1)):
        harness.add(name, 4, n=n)
    assert step_all(harness.engine)[0] == [["a", "b"], ["c", "d"]]


def test_samples_beyond_max_num_seqs_are_of_their_requests_batch() -> None:
    harness = static(max_num_seqs=3)
    harness.add("five", 4, max_tokens=4, n=5)
    harness.add("next", 4, max_tokens=4)
    assert step_all(harness.engine)[0] == [["five"], ["next"]]
    samples = [len(plan.sampled_rows) for plan in harness.executor.plans if plan.rows]
    assert samples == [3] * 4 + [2] * 4 + [1] * 4


def test_prompts_over_a_steps_tokens_are_of_the_batch_and_computed_in_the_next_steps() -> None:
    harness = static(max_num_seqs=5, max_num_batched_tokens=16)
    for name in "abcdef":
        harness.add(name, 12, max_tokens=20)
    harness.step()
    assert harness.running == list("abcde"), "all that fit, though only the first two got tokens"
    harness.add("late", 1)
    batches, _ = step_all(harness.engine)
    assert batches == [["f", "late"]]
    plans = harness.executor.plans
    assert [sum(plan.num_new) for plan in plans[:4]] == [16, 16, 16, 16], "no step waits for anybody"
    prefills = [len(plan.sampled_rows) for plan in plans]
    assert prefills.index(5) == 4, "60 tokens of prompts and those of the first to decode, 16 a step"


@pytest.mark.parametrize("budget", [16, 200])
@pytest.mark.parametrize(
    ("allocation", "num_blocks", "size"), [("paged", 20, 3), ("contiguous-max", 800, 3), ("contiguous-oracle", 60, 7)]
)
def test_a_batch_is_what_fits_the_memory_whatever_a_steps_tokens_are(
    allocation: KVAllocation, num_blocks: int, size: int, budget: int
) -> None:
    """Paged: five blocks for each prompt of 20, one spare for two that run. Contiguous: runs of 256 blocks for the
    model's 1,000 tokens, or of 8 for 26."""
    harness = static(num_blocks=num_blocks, max_num_batched_tokens=budget, kv_allocation=allocation)
    for number in range(2 * size):
        harness.add(str(number), 20, max_tokens=6)
    batches, _ = step_all(harness.engine)
    assert batches == [[str(number) for number in range(first, first + size)] for first in (0, size)]


def crowd(num_blocks: int, policy: str, **knobs: Any) -> Engine:
    """Ten requests, which outgrow a small pool."""
    executor = ShadowExecutor(capacity(num_blocks, block_size=4, max_model_len=64, num_swap_blocks=num_blocks))
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 24}
    engine = Engine(executor, scheduling_policy=policy, **limits, **knobs)  # type: ignore[arg-type]
    for number in range(10):
        params = SamplingParams(n=1 + number % 3, max_tokens=10 + 7 * number % 13, ignore_eos=True)
        prompt = [100 * number + i for i in range(3 + 5 * number % 14)]
        hint = 4 if knobs.get("kv_allocation") == "contiguous-oracle" else None
        request = EngineRequest(str(number), prompt, params, float(number), seed=number, output_len_hint=hint)
        engine.add(request)
    return engine


@pytest.mark.parametrize(
    ("allocation", "mode"),
    [("paged", "recompute"), ("paged", "swap"), ("contiguous-oracle", "recompute"), ("contiguous-max", "recompute")],
)
def test_preempted_members_come_back_into_their_batch_and_get_the_tokens_of_fcfs(
    allocation: KVAllocation, mode: PreemptionMode
) -> None:
    """Sequences outgrow what oracles have reserved for them, as their hints are too low."""
    num_blocks = 24 if allocation == "paged" else 100
    knobs = {"kv_allocation": allocation, "preemption_mode": mode}
    fcfs, engine = (crowd(num_blocks, policy, **knobs) for policy in ("fcfs", "static"))
    _, wanted = step_all(fcfs)
    batches, tokens = step_all(engine)
    assert tokens == wanted
    assert 1 < len(batches) < 10
    assert sorted(name for batch in batches for name in batch) == list("0123456789")
    assert (engine.scheduler.num_preemptions > 0) == (allocation != "contiguous-max")


@pytest.mark.parametrize("mode", ["recompute", "swap"])
def test_a_member_may_be_preempted_before_any_of_its_tokens_was_computed(mode: PreemptionMode) -> None:
    """The first request's prompt takes all tokens of the first step, and its four samples all blocks in the second."""
    executor = ShadowExecutor(capacity(8, block_size=4, max_model_len=32, num_swap_blocks=8))
    engine = Engine(
        executor, max_num_seqs=8, max_num_batched_tokens=16, scheduling_policy="static", preemption_mode=mode
    )
    for number, (num_prompt, n) in enumerate([(16, 4), (8, 1)]):
        params = SamplingParams(n=n, max_tokens=4, ignore_eos=True)
        engine.add(EngineRequest(str(number), [100 * number + i for i in range(num_prompt)], params, 0.0, seed=number))
    engine.step()
    assert under_way(engine) == ["0", "1"]
    engine.step()
    assert [request.request_id for request in engine.scheduler.queues.waiting] == ["1"]
    assert under_way(engine) == ["0", "1"]
    engine.add(EngineRequest("late", [7], SamplingParams(max_tokens=1), 1.0, seed=9))
    batches, tokens = step_all(engine)
    assert batches == []
    assert tokens.keys() == {"0/0", "0/1", "0/2", "0/3", "1/0", "late/0"}


def test_an_aborted_batch_frees_the_way() -> None:
    harness = static(max_num_seqs=2)
    for name in "abcd":
        harness.add(name, 4)
    harness.step()
    assert harness.engine.abort("a")
    harness.step()
    assert harness.running == ["b"], "the batch goes on with what is left of it"
    assert harness.engine.abort("b")
    harness.step()
    assert harness.running == ["c", "d"]
    harness.finish()


def test_aborting_the_preempted_rest_of_a_batch_frees_the_way() -> None:
    engine = crowd(24, "static")
    while engine.scheduler.num_preemptions == 0:
        engine.step()
    batch, num_begun = under_way(engine), engine.scheduler.queues.num_begun
    for request in engine.scheduler.running:
        engine.abort(request.request_id)
    assert under_way(engine), "the preempted ones"
    engine.step()
    assert engine.scheduler.queues.num_begun == num_begun, "they come back before anybody begins"
    for name in batch:
        engine.abort(name)
    engine.step()
    assert under_way(engine)[0] == str(num_begun)
    check_engine(engine)
    step_all(engine)


@pytest.mark.parametrize("depth", [1, 2])
def test_two_steps_in_flight_change_no_batch(depth: int) -> None:
    harness = static(max_num_seqs=3, depth=depth)
    for number in range(7):
        harness.add(str(number), 4 + number, max_tokens=2 + number % 3)
    assert step_all(harness.engine)[0] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_batch_of_prompts_that_are_computed_whole_is_what_one_step_computes(depth: int) -> None:
    executor = PoolingRecorder(Pooling(kind="mean", is_causal=False), depth)
    engine = Engine(executor, max_num_seqs=8, max_num_batched_tokens=20, scheduling_policy="static")
    for number, length in enumerate([12, 7, 2, 19, 20, 5, 1]):
        engine.add(embedding(str(number), length))
    step_all(engine)
    assert [plan.num_new for plan in executor.plans if plan.rows] == [[12, 7], [2], [19], [20], [5, 1]]
