"""Requests through an engine whose steps take known times, and what is told of them."""

import random
from collections.abc import Iterable

import numpy as np
import pytest

from octavo.engine.engine import Engine
from octavo.evaluation.decoding import METHODS, Decoding, Method
from octavo.evaluation.simulator.replay import Replay, SimulatedClock, prompt_ids
from octavo.evaluation.simulator.tally import SHOWN_MOMENTS, Histogram, ReplayFigures, Spread, Tally
from octavo.evaluation.simulator.traffic import Arrival, behind_prefix, decoded
from octavo.execution.executor import Capacity
from octavo.execution.plan import Plan
from octavo.execution.simulated import SimulatedExecutor, StepSeconds
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest


def capacity(num_blocks: int = 1000, num_swap_blocks: int = 0) -> Capacity:
    return Capacity(
        num_blocks=num_blocks,
        num_swap_blocks=num_swap_blocks,
        block_size=16,
        block_bytes=1,
        max_model_len=2048,
        vocab_size=50_000,
    )


def serve(
    arrivals: Iterable[Arrival], cost: StepSeconds, *, depth: int = 1, num_blocks: int = 1000, **knobs: object
) -> Tally:
    executor = SimulatedExecutor(capacity(num_blocks), lambda _: cost, depth)
    settings: dict[str, object] = {"max_num_seqs": 64, "max_num_batched_tokens": 2048, **knobs}
    engine = Engine(executor, **settings)  # type: ignore[arg-type]
    return Replay(engine, SimulatedClock(executor)).run(arrivals)


def figures(*arguments: object, **knobs: object) -> ReplayFigures:
    return serve(*arguments, **knobs).figures()  # type: ignore[arg-type]


def near(spread: Spread, value: float) -> bool:
    return [spread.mean, spread.p50, spread.p90, spread.p99] == pytest.approx([value] * 4, rel=0.003)


def test_one_request_takes_a_step_a_token() -> None:
    told = figures([Arrival(0.0, 20, 10)], StepSeconds(compute_s=1.5, host_s=0.5))
    assert (told.requests, told.refused, told.steps) == (1, 0, 10)
    assert told.seconds == 20
    assert near(told.latency_s, 20)
    assert near(told.normalized_latency_s, 2)
    assert near(told.first_token_s, 2)
    assert told.token_s is not None
    assert near(told.token_s, 2)
    assert (told.request_rate, told.output_tok_s, told.total_tok_s) == (1 / 20, 0.5, 1.5)
    assert (told.mean_running, told.mean_waiting) == (1, 0)


def test_a_request_waits_for_the_step_in_progress_and_an_idle_machine_for_requests() -> None:
    told = serve([Arrival(0.0, 4, 4), Arrival(1.5, 4, 1), Arrival(100.0, 4, 2)], StepSeconds(compute_s=1))
    # The second comes in the second step, runs in the third, and leaves with it.
    assert told.first_token.total == pytest.approx(1 + 1.5 + 1)
    assert told.latency.total == pytest.approx(4 + 1.5 + 2)
    assert told.end_s == 102


def test_a_device_that_works_beside_the_host_waits_for_the_slower_of_both() -> None:
    cost = StepSeconds(compute_s=1, host_s=0.25)
    one, two = (serve([Arrival(0.0, 4, 200)], cost, depth=depth) for depth in (1, 2))
    assert one.token.mean == pytest.approx(1.25)
    assert two.token.mean == pytest.approx(1, rel=0.01)
    slow_host = serve([Arrival(0.0, 4, 200)], StepSeconds(compute_s=0.25, host_s=1), depth=2)
    assert slow_host.token.mean == pytest.approx(1, rel=0.01)


def test_tokens_that_memory_has_no_room_for_are_not_counted() -> None:
    """Four samples share a prompt of 16 tokens and two blocks more: the scheduler ends them one after the other."""
    cost, sampled = StepSeconds(compute_s=1), Decoding("parallel", 4)
    tally = serve([Arrival(0.0, 16, 100, decoding=sampled), Arrival(0.0, 16, 4)], cost, num_blocks=7)
    told = tally.figures()
    assert (told.requests, told.refused, told.cut_short) == (2, 0, 1)
    assert 4 < tally.counts["output_tokens"] < 4 + 7 * 16
    whole = serve([Arrival(0.0, 16, 100, decoding=sampled)], cost)
    assert (whole.figures().cut_short, whole.counts["output_tokens"]) == (0, 400)


def test_answers_that_come_whole_tell_nothing_of_the_time_between_tokens() -> None:
    beams = Decoding("beam", 2)
    tally = serve([Arrival(0.0, 16, 10, decoding=beams)], StepSeconds(compute_s=1))
    assert tally.figures().token_s is None
    assert (tally.figures().cut_short, tally.counts["output_tokens"]) == (0, 20)


def test_a_request_that_never_fits_is_counted_and_the_others_are_served() -> None:
    told = figures([Arrival(0.0, 4000, 4), Arrival(0.0, 4, 4)], StepSeconds(compute_s=1))
    assert (told.requests, told.refused) == (1, 1)
    tally = serve([Arrival(0.0, 4000, 4)], StepSeconds(compute_s=1))
    assert tally.refusal is not None
    assert "4000" in tally.refusal


def test_what_the_memory_does_is_told() -> None:
    arrivals = [Arrival(0.0, 30, 200) for _ in range(12)]
    tight = figures(arrivals, StepSeconds(compute_s=1), num_blocks=60, preemption_mode="recompute")
    roomy = figures(arrivals, StepSeconds(compute_s=1))
    assert tight.preemptions > 0 == roomy.preemptions
    assert tight.recomputed_tokens > 0
    assert tight.mean_running < roomy.mean_running == pytest.approx(12)
    assert tight.mean_waiting > 1 > roomy.mean_waiting
    assert tight.token_states > 0.6 > 0.3 > roomy.token_states
    assert tight.token_states + tight.reserved + tight.internal + tight.external + tight.cached <= 1


def test_swaps_take_their_time_and_auto_follows_it() -> None:
    """Where moving takes longer than computing again, `auto` swaps in one step, to see, and then computes."""

    def run(move_s: float) -> ReplayFigures:
        def cost(plan: Plan) -> StepSeconds:
            return StepSeconds(0.01 + 1e-4 * sum(plan.num_new), move_s * (len(plan.swap_out) + len(plan.swap_in)))

        executor = SimulatedExecutor(capacity(60, num_swap_blocks=60), cost)
        engine = Engine(executor, max_num_seqs=64, max_num_batched_tokens=2048, preemption_mode="auto")
        return Replay(engine, SimulatedClock(executor)).run(Arrival(0.0, 30, 200) for _ in range(20)).figures()

    slow, fast = run(1.0), run(1e-6)
    assert 0 < slow.swaps < 0.3 * slow.preemptions
    assert fast.swaps > 0.8 * fast.preemptions, "but for where the swap space is full"


def test_the_prompts_of_a_replay_have_no_block_in_common() -> None:
    """Not even with others of their length, or whose number has the same digits."""
    for vocab_size in (97, 50_000):
        begins = {tuple(prompt_ids(number, 40, vocab_size)[:16]) for number in range(3000)}
        assert len(begins) == 3000
        assert all(0 <= token < vocab_size for begin in begins for token in begin)
    assert [len(prompt_ids(5, count, 97)) for count in (1, 2, 15, 16, 17, 500)] == [1, 2, 15, 16, 17, 500]


def test_a_prompt_behind_a_prefix_begins_as_all_do_and_then_as_no_other() -> None:
    first, second = (prompt_ids(number, 50, 50_000, 33) for number in (1, 2))
    assert (len(first), len(second)) == (50, 50)
    assert first[:33] == second[:33]
    assert first[33:] != second[33:]
    hits = [
        figures(behind_prefix([Arrival(float(second), 30, 8) for second in (0, 100)], num), StepSeconds(compute_s=1))
        for num in (0, 64)
    ]
    assert [each.hit_tokens for each in hits] == [0, 64]


@pytest.mark.parametrize("method", METHODS)
def test_a_request_of_several_sequences_is_over_when_all_are(method: Method) -> None:
    told = figures(decoded([Arrival(0.0, 40, 10)], Decoding(method, 4)), StepSeconds(compute_s=1))
    assert (told.requests, told.steps) == (1, 10)
    assert told.output_tok_s == 4
    assert told.normalized_latency_s.mean == pytest.approx(1), "a token of each sequence a step"
    assert told.mean_running == pytest.approx(1)


def test_a_replay_that_is_given_up_leaves_nothing_behind() -> None:
    executor = SimulatedExecutor(capacity(), lambda _: StepSeconds(compute_s=1))
    engine = Engine(executor, max_num_seqs=8, max_num_batched_tokens=64)
    replay = Replay(engine, SimulatedClock(executor))
    told = replay.run([Arrival(0.0, 4, 10), Arrival(0.0, 4, 100)], lambda tally: tally.latency.count > 0)
    assert told.figures().requests == 1
    assert not engine.has_unfinished
    assert engine.ledger().num_filled_slots == 0


def test_a_replay_begins_with_the_engine_as_it_is() -> None:
    """What was served before is not counted."""
    executor = SimulatedExecutor(capacity(), lambda _: StepSeconds(compute_s=1))
    engine = Engine(executor, max_num_seqs=8, max_num_batched_tokens=64)
    engine.add(EngineRequest("before", [1, 2, 3], SamplingParams(max_tokens=5, ignore_eos=True), 0.0))
    while engine.has_unfinished:
        engine.step()
    executor.clock_s = 0.0
    assert Replay(engine, SimulatedClock(executor)).run([Arrival(50.0, 4, 3)]).figures().steps == 3


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_quantiles_of_a_histogram_are_those_of_the_numbers(size: int) -> None:
    generator = random.Random(size)
    numbers = [generator.lognormvariate(0, 2) for _ in range(size)]
    whole, half = Histogram(), Histogram()
    for place, number in enumerate(numbers):
        (half if place % 2 else whole).add(number)
    whole.merge(half)
    assert whole.mean == pytest.approx(np.mean(numbers))
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        exact = np.quantile(numbers, share, method="inverted_cdf")
        assert whole.quantile(share) == pytest.approx(exact, rel=0.003)


def test_a_histogram_of_nothing_and_of_zeros_has_zeros() -> None:
    empty, zeros = Histogram(), Histogram()
    for number in (0.0, 0.0, 5.0):
        zeros.add(number)
    assert (empty.mean, empty.quantile(0.5)) == (0, 0)
    assert zeros.quantile(0.5) == 0
    assert zeros.quantile(0.99) == pytest.approx(5, rel=0.003)


def test_replicas_are_told_of_together() -> None:
    parts = [serve([Arrival(0.0, 4, tokens)], StepSeconds(compute_s=1)) for tokens in (10, 30)]
    whole = Tally()
    for part in parts:
        whole.merge(part)
    told = whole.figures()
    assert (told.requests, told.seconds, told.output_tok_s, told.steps) == (2, 30, 40 / 30, 40)
    assert told.latency_s.mean == 20


def test_what_is_kept_to_be_drawn_does_not_grow_with_the_replay() -> None:
    tally = serve([Arrival(3.0 * number, 4, 40) for number in range(1500)], StepSeconds(compute_s=1))
    shown = tally.moments.shown
    assert SHOWN_MOMENTS / 2 <= len(shown) <= SHOWN_MOMENTS
    gaps = np.diff([second for second, _ in shown])
    assert min(gaps) > 0
    assert shown[-1][0] > 0.95 * tally.end_s
    assert max(gaps) < 4 * np.median(gaps)
