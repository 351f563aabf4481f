"""Who goes before whom: first come, first served, the shortest prompt first, within a bound, or the lowest priority."""

import pytest

from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from octavo.scheduling.policy import Policy
from scheduling.test_scheduler import Harness

LONGEST = 1000
"""The model length of the harness' engine."""


def ended(harness: Harness) -> list[str]:
    """The requests in the order in which they end."""
    order: list[str] = []
    left = [r.request_id for r in harness.engine.scheduler.queues.waiting + harness.engine.scheduler.running]
    while harness.engine.has_unfinished:
        harness.step()
        queues = harness.engine.scheduler.queues
        order += [name for name in left if queues.find(name) is None]
        left = [name for name in left if queues.find(name) is not None]
    return order


def with_twelve_long_prompts_and_a_short_one(**knobs) -> Harness:
    """A pool for 2.8 of the long ones, of 200 tokens; they come within twelve seconds, the short one after them."""
    harness = Harness(num_blocks=146, max_num_batched_tokens=50, **knobs)
    for number in range(12):
        harness.add(f"long{number}", 200)
    for _ in range(3):
        harness.step()
    harness.add("short", 8)
    return harness


def test_first_come_first_served_has_a_short_prompt_wait_for_all_before_it():
    assert ended(with_twelve_long_prompts_and_a_short_one())[-3:].count("short") == 1


def test_the_shortest_prompt_first_passes_all_that_wait_and_shares_steps_with_those_that_run():
    harness = with_twelve_long_prompts_and_a_short_one(scheduling_policy="shortest-first", overtaking_time=100.0)
    assert harness.running == ["long0"], "a prompt of 200 is being computed, 50 tokens a step"
    plan = harness.step()
    assert plan.num_new == [8, 50 - 8], "the short one's prompt goes before the next part of the long one"
    assert ended(harness)[0] == "short"


def test_a_running_prompts_next_part_goes_before_those_that_do_not_rank_before_it():
    harness = Harness(max_num_batched_tokens=16, scheduling_policy="shortest-first", overtaking_time=100.0)
    harness.add("long", 64)
    harness.step()
    harness.add("longer", 96)
    assert harness.step().num_new == [16]
    assert harness.running == ["long"]


def test_nobody_is_overtaken_by_those_that_come_after_its_time():
    """A new short prompt comes with each second, and each takes the only place for a while."""
    window = 40
    harness = Harness(max_num_seqs=1, scheduling_policy="shortest-first", overtaking_time=window * LONGEST / 200)
    harness.add("running", 4, max_tokens=4)
    harness.step()
    harness.add("long", 200, max_tokens=4)
    num_before = 0
    for number in range(400):
        harness.add(f"short{number}", 4, max_tokens=4)
        for _ in range(4):
            harness.step()
        if "long" in harness.running:
            break
        num_before += 1
    assert window - 4 <= num_before <= window + 4, "all shorter ones of its time window passed it, and no others"
    harness.finish()


def test_a_rank_is_the_arrival_set_back_in_proportion_to_the_prompt():
    policy = Policy("shortest-first", overtaking_s=300.0, longest=8000)
    assert policy.rank(10.0, 8000) == 310.0
    assert policy.rank(10.0, 80) == 13.0
    assert policy.rank(309.0, 8) < policy.rank(10.0, 8000) < policy.rank(310.0, 8)


def test_the_lowest_priority_goes_first_and_ties_go_by_arrival():
    harness = Harness(max_num_seqs=1, scheduling_policy="priority")
    for name, priority in (("a", 0), ("late", 7), ("b", 0), ("first", -3), ("c", 0)):
        harness.add(name, 4, priority=priority)
    assert ended(harness) == ["first", "a", "b", "c", "late"]


def test_where_memory_runs_short_the_highest_priority_is_preempted():
    harness = Harness(num_blocks=20, max_num_batched_tokens=64, scheduling_policy="priority")
    harness.add("low", 20, max_tokens=24, priority=9)
    harness.add("high", 20, max_tokens=24, priority=1)
    while harness.engine.scheduler.num_preemptions == 0:
        harness.step()
    assert harness.running == ["high"]
    assert ended(harness) == ["high", "low"]


@pytest.mark.parametrize("policy", ["fcfs", "shortest-first", "static"])
def test_other_policies_refuse_a_priority_and_name_the_flag(policy):
    harness = Harness(scheduling_policy=policy)
    harness.add("none", 4, priority=0)
    with pytest.raises(
        RequestError, match=f"priority is -1.*--scheduling-policy {policy}.*--scheduling-policy priority"
    ):
        harness.add("some", 4, priority=-1)
    harness.finish()


@pytest.mark.parametrize("wrong", [2**53 + 1, -(2**60), 0.5, "high", True])
def test_what_is_no_priority_is_refused(wrong):
    with pytest.raises(RequestError, match="priority must be a whole number"):
        Harness(scheduling_policy="priority").add("a", 4, priority=wrong)


def test_first_come_first_served_ranks_all_alike_and_keeps_their_order():
    assert Policy().rank(10.0, 8000) == Policy().rank(1.0, 1)
    harness = Harness(max_num_seqs=1)
    for name in "abc":
        harness.add(name, 4)
    assert ended(harness) == ["a", "b", "c"]


@pytest.mark.parametrize("policy", ["fcfs", "shortest-first", "priority", "static"])
def test_no_step_both_preempts_and_admits(policy):
    harness = Harness(num_blocks=24, max_num_batched_tokens=24, scheduling_policy=policy, overtaking_time=500.0)
    num_admitted = num_preempted = 0
    for number in range(60):
        priority = -number % 7 if policy == "priority" else 0
        harness.add(f"{number}", 4 + 28 * (number % 3 == 0), max_tokens=24, priority=priority)
        for _ in range(6):
            scheduler, before = harness.engine.scheduler, set(harness.running)
            preemptions = scheduler.num_preemptions
            if not harness.engine.has_unfinished:
                break
            harness.step()
            has_admitted = bool(set(harness.running) - before)
            assert not (has_admitted and scheduler.num_preemptions > preemptions)
            num_admitted += has_admitted
            num_preempted += scheduler.num_preemptions - preemptions
    assert min(num_admitted, num_preempted) > 5
    harness.finish()


def test_requests_that_do_not_begin_in_time_are_dropped_and_those_that_did_are_not():
    harness = Harness(num_blocks=8, max_num_seqs=1)
    scheduler = harness.engine.scheduler
    for number, start_by_s in enumerate((5.0, 7.0, 6.0, None)):
        params = SamplingParams(max_tokens=8)
        harness.engine.add(EngineRequest(f"{number}", [1, 2], params, float(number), start_by_s=start_by_s))
    harness.step()
    assert harness.running == ["0"]
    assert scheduler.expire(4.9) == []
    assert [request.request_id for request in scheduler.expire(6.5)] == ["2"]
    assert [request.request_id for request in scheduler.queues.waiting] == ["1", "3"]
    assert scheduler.abort("1")
    assert scheduler.expire(100.0) == []
    assert ended(harness) == ["0", "3"]
    assert scheduler.queues.num_begun == 2
