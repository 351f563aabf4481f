"""Who runs in a step, told by what is in the plans."""

from functools import partial
from typing import Any

from octavo.engine.engine import Engine
from octavo.execution.executor import Capabilities
from octavo.execution.plan import Plan
from octavo.layer_groups import Full, Window, group_layers
from octavo.memory import BlockTable
from octavo.sampling_params import Beams, SamplingParams
from octavo.scheduling import EngineRequest
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import SequenceState
from octavo.structured_outputs import Grammar
from paged_memory import paged
from scheduling.checking import ShadowExecutor, capacity, check_engine


class Recorder(ShadowExecutor):
    """Keeps the plans it was given."""

    def __init__(self, num_blocks: int, block_size: int, depth: int) -> None:
        capabilities = Capabilities(adapters=("french", "legal"), grammars=frozenset({"json"}))
        super().__init__(capacity(num_blocks, block_size, max_model_len=1000, capabilities=capabilities), depth)
        self.plans: list[Plan] = []

    def submit(self, plan):
        self.plans.append(plan)
        return super().submit(plan)


class Harness:
    """An engine whose every step is checked, and what it planned."""

    def __init__(
        self, num_blocks=100, block_size=4, max_num_seqs=8, max_num_batched_tokens=16, depth=1, **knobs: Any
    ) -> None:
        self.executor = Recorder(num_blocks, block_size, depth)
        sizes = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": max_num_batched_tokens}
        self.engine = Engine(self.executor, **sizes, **knobs)
        self.num_requests = 0

    def add(
        self, name: str, num_prompt: int, max_tokens: int = 8, n: int = 1, beam_width: int = 0, priority: int = 0
    ) -> None:
        beams = Beams(width=beam_width) if beam_width else None
        params = SamplingParams(n=n, max_tokens=max_tokens, beams=beams)
        prompt = [self.num_requests * 100 + i for i in range(num_prompt)]
        arrival_s, seed = float(self.num_requests), self.num_requests
        self.engine.add(EngineRequest(name, prompt, params, arrival_s, seed=seed, priority=priority))
        self.num_requests += 1

    def step(self) -> Plan:
        self.engine.step()
        check_engine(self.engine)
        return self.executor.plans[-1]

    def finish(self) -> None:
        while self.engine.has_unfinished:
            self.step()

    @property
    def running(self) -> list[str]:
        return [request.request_id for request in self.engine.scheduler.running]

    @property
    def used_blocks(self) -> int:
        return self.engine.ledger().num_used_blocks


def test_a_prompt_over_the_token_budget_is_computed_in_chunks_beside_decodes():
    harness = Harness(max_num_batched_tokens=16)
    harness.add("short", 4)
    assert harness.step().num_new == [4]
    harness.add("long", 40)
    first, second, third = harness.step(), harness.step(), harness.step()
    assert (first.num_new, len(first.sampled_rows)) == ([1, 15], 1)
    assert (second.num_new, len(second.sampled_rows)) == ([1, 15], 1)
    assert (third.num_new, third.starts, len(third.sampled_rows)) == ([1, 10], [6, 30], 2)


def test_samples_share_one_prefill_and_their_prompts_blocks():
    harness = Harness()
    harness.add("four", 10, n=4)
    plan = harness.step()
    assert plan.num_new == [10]
    assert (len(plan.sampled_rows), plan.logits_from) == (4, [0] * 4)
    assert harness.used_blocks == 3
    plan = harness.step()
    assert plan.num_new == [1] * 4
    assert len(plan.copies) == 3, "the last to write keeps the original"
    assert harness.used_blocks == 2 + 4
    assert harness.engine.ledger().num_unshared_blocks == 12


def test_nobody_overtakes_the_head_of_the_queue():
    harness = Harness(num_blocks=12)
    harness.add("first", 30, max_tokens=4)
    harness.add("large", 24, max_tokens=4)
    harness.add("small", 1, max_tokens=1)
    harness.step()
    assert harness.running == ["first"]
    harness.finish()


def test_the_latest_arrival_is_preempted_and_resumes_before_new_requests():
    harness = Harness(num_blocks=9, max_num_batched_tokens=32)
    for name in "abcdef":
        harness.add(name, 8, max_tokens=16)
    left = "abcdef"
    while harness.engine.has_unfinished:
        harness.step()
        alive = harness.running + [r.request_id for r in harness.engine.scheduler.queues.waiting]
        left = "".join(name for name in left if name in alive)
        assert left.startswith("".join(harness.running)), "the earliest arrivals run, the latest wait"
    assert harness.engine.scheduler.num_preemptions > 1


def test_a_preempted_request_rebuilds_each_distinct_block_once():
    alone, crowded = Harness(num_blocks=100), Harness(num_blocks=22, max_num_batched_tokens=12)
    alone.add("first", 4, max_tokens=2)
    crowded.add("first", 4, max_tokens=56)
    for harness in (alone, crowded):
        harness.add("four", 18, max_tokens=14, n=4)
    blocks_at = {}
    while alone.engine.has_unfinished:
        alone.step()
        for request in alone.engine.scheduler.running:
            blocks_at[request.sequences[0].num_tokens] = len({b for s in request.sequences for b in s.table.held})
    num_checked = 0
    while crowded.engine.has_unfinished:
        crowded.step()
        for request in crowded.engine.scheduler.running:
            if request.request_id == "four" and request.is_decoding and request.memory_use.num_preemptions:
                held = len({b for s in request.sequences for b in s.table.held})
                assert held == blocks_at[request.sequences[0].num_tokens]
                num_checked += 1
            if request.memory_use.num_preemptions == 1 and not request.is_decoding:
                assert request.memory_use.num_recomputed_tokens < 18 + 4 * 14, "the shared prompt was counted once"
    assert num_checked > 0


def test_siblings_wait_while_a_rebuild_is_cut_into_chunks():
    harness = Harness(num_blocks=18, max_num_seqs=5, max_num_batched_tokens=6)
    harness.add("first", 4, max_tokens=56)
    harness.add("three", 15, max_tokens=14, n=3)
    samples = []
    while harness.engine.has_unfinished:
        plan = harness.step()
        samples.append(len(plan.sampled_rows))
    assert harness.engine.scheduler.num_preemptions > 0
    assert set(samples) == {0, 1, 3, 4}, "the three sample together or, in the steps of a rebuild, not at all"


def test_aborting_the_sequence_that_computes_the_prompt_leaves_it_to_another():
    harness = Harness(max_num_batched_tokens=8)
    harness.add("three", 20, n=3)
    harness.step()
    harness.engine.abort("three", 0)
    harness.finish()
    assert sum(len(plan.sampled_rows) for plan in harness.executor.plans) == 2 * 8


def test_samples_beyond_max_num_seqs_run_when_those_before_them_are_over():
    harness = Harness(max_num_seqs=3)
    harness.add("five", 20, max_tokens=4, n=5)
    harness.finish()
    samples = [len(plan.sampled_rows) for plan in harness.executor.plans if plan.rows]
    assert [count for count in samples if count] == [3] * 4 + [2] * 4
    first = next(plan for plan in harness.executor.plans[2:] if plan.added)
    assert first.starts[0] == 16, "the prompt's full blocks were found"


def test_aborting_a_request_or_a_sample_reaches_those_that_have_not_begun():
    harness = Harness(max_num_seqs=2)
    harness.add("five", 6, max_tokens=4, n=5)
    harness.step()
    assert harness.engine.abort("five", 3)
    assert not harness.engine.abort("five", 3)
    harness.finish()
    samples = [len(plan.sampled_rows) for plan in harness.executor.plans if plan.rows]
    assert samples == [2] * 8
    harness.add("more", 6, n=5)
    harness.step()
    assert harness.engine.abort("more")
    assert not harness.engine.has_unfinished
    assert harness.used_blocks == 0


def test_a_removed_parents_children_share_what_both_shared_with_it():
    message = EngineRequest("a", list(range(10)), SamplingParams(n=4), 0.0)
    request = Request.create(message, 20, frozenset(), 4, partial(BlockTable.empty, 1))
    root, *children = request.sequences
    for child, shared in zip(children, (6, 9, 4), strict=True):
        child.fork_at = shared
    request.remove(root, paged(1, 4).can_fork)
    heir, *others = request.sequences
    assert (heir.parent, heir.fork_at) == (None, 0)
    assert [(other.parent, other.fork_at) for other in others] == [(heir, 6), (heir, 4)]
    grandchild = SequenceState(request, 9, BlockTable.empty(1, 30), 10, parent=others[0], fork_at=8)
    request.sequences.append(grandchild)
    request.remove(others[0], paged(1, 4).can_fork)
    assert (grandchild.parent, grandchild.fork_at) == (heir, 6)


def test_with_two_steps_in_flight_nothing_is_planned_past_the_end():
    for depth in (1, 2):
        harness = Harness(depth=depth)
        harness.add("a", 5, max_tokens=7)
        harness.add("b", 9, max_tokens=3, n=2)
        harness.finish()
        assert sum(len(plan.sampled_rows) for plan in harness.executor.plans) == 7 + 2 * 3


def test_a_plans_size_follows_the_rows_not_their_tokens():
    import msgspec

    sizes = []
    for num_prompt in (20, 900):
        harness = Harness(num_blocks=600, max_num_batched_tokens=1000)
        harness.add("a", num_prompt, max_tokens=40, n=3)
        harness.step()
        sizes.append([len(msgspec.msgpack.encode(harness.step())) for _ in range(8)])
    assert all(long <= short + 3 * 6 for short, long in zip(*sizes, strict=True)), sizes
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(harness.executor.plans[0]), type=Plan)
    assert decoded == harness.executor.plans[0]


def test_beams_share_one_prefill_and_dropped_beams_blocks_are_free_at_once():
    harness = Harness()
    harness.add("search", 10, max_tokens=12, n=2, beam_width=4)
    plan = harness.step()
    assert (plan.num_new, len(plan.sampled_rows)) == ([10], 1)
    assert plan.added[0].num_candidates == 4
    plan = harness.step()
    assert (len(plan.forked), len(plan.chosen), plan.num_new) == (3, 4, [1] * 4)
    num_dropped = 0
    while harness.engine.has_unfinished:
        plan = harness.step()
        num_dropped += len(plan.removed)
        assert len(plan.removed) == len(plan.forked) or not harness.engine.has_unfinished
        held = {b for r in harness.engine.scheduler.running for s in r.sequences for b in s.table.held}
        assert harness.used_blocks == len(held)
    assert num_dropped > 4
    assert harness.used_blocks == 0


def test_a_beam_search_holds_its_places_from_its_admission():
    harness = Harness(max_num_seqs=8, max_num_batched_tokens=8)
    harness.add("search", 20, beam_width=5)
    harness.add("four", 4, n=4)
    harness.add("three", 4, n=3)
    harness.step()
    assert harness.running == ["search"], "four more sequences would be nine once the search has all its beams"
    harness.finish()


def test_a_search_waits_for_its_results_while_others_go_on():
    harness = Harness(depth=2)
    harness.add("search", 4, beam_width=2)
    harness.add("sample", 4)
    harness.finish()
    rows = [len(plan.rows) for plan in harness.executor.plans]
    assert 1 in rows, "a step of the sample alone, the search's results being in flight"
    assert sum(len(plan.sampled_rows) for plan in harness.executor.plans) == 1 + 7 * 2 + 8


def test_an_aborted_search_leaves_no_row_behind_though_its_forks_were_not_planned_yet():
    harness = Harness()
    harness.add("search", 6, beam_width=4)
    harness.step()
    assert len(harness.engine.scheduler.running[0].sequences) == 4
    assert not harness.engine.abort("search", 1), "a search is aborted whole or not at all"
    assert harness.engine.abort("search")
    harness.add("next", 6, beam_width=3)
    harness.step()
    assert len(harness.executor.shadows) == 1
    harness.finish()


def test_a_pin_also_serves_prompts_that_end_in_its_last_block_or_part_from_it_there():
    """Where nothing but pins is left in the prefix cache, window groups have what such prompts see, too."""
    groups = group_layers([Full(), Window(9)])
    executor = ShadowExecutor(capacity(100, block_size=4, max_model_len=1000, layer_groups=groups))
    engine = Engine(executor, max_num_seqs=4, max_num_batched_tokens=16)
    pin = list(range(40))
    engine.pin(pin, "pin.txt")
    others = [[1000 * number + place for place in range(100)] for number in range(1, 9)]
    cached = []
    for number, prompt in enumerate([*others, pin, [*pin[:39], 777, 778], [*pin, 777]]):
        params = SamplingParams(max_tokens=8)
        engine.add(EngineRequest(str(number), prompt, params, float(number), seed=number))
        while engine.has_unfinished:
            for update in engine.step():
                use = update.memory
            check_engine(engine)
        cached.append(use.num_cached_tokens)
    assert cached == [0] * 8 + [36, 36, 40]


def test_what_a_request_wants_goes_to_the_runner_once_and_waits_for_no_result():
    harness = Harness(depth=2)
    grammar = Grammar("json", "{}")
    params = SamplingParams(n=2, max_tokens=8)
    harness.engine.add(EngineRequest("wants", [1, 2, 3], params, 0.0, adapter="legal", grammar=grammar))
    harness.add("sample", 4)
    harness.finish()
    new, other = (new for plan in harness.executor.plans for new in plan.added)
    assert (new.task, new.adapter, new.grammar) == ("generate", 2, grammar)
    assert (other.task, other.adapter, other.grammar) == ("generate", 0, None)
    assert [len(plan.sampled_rows) for plan in harness.executor.plans if plan.rows] == [3] * 8


def test_a_prompt_computed_with_an_adapter_is_found_by_those_with_the_same_one_only():
    harness = Harness()
    harness.engine.pin(list(range(8)), "pin.txt")

    def num_computed(name: str, adapter: str | None) -> int:
        harness.engine.add(EngineRequest(name, list(range(9)), SamplingParams(max_tokens=1), 0.0, adapter=adapter))
        return sum(harness.step().num_new)

    adapters = [None, "french", "french", "legal", None]
    assert [num_computed(str(place), adapter) for place, adapter in enumerate(adapters)] == [1, 9, 1, 9, 1]
