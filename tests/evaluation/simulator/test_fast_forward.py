"""Steps that are made at once leave behind what they leave one by one."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.engine.engine import Engine
from octavo.errors import RequestError
from octavo.evaluation.decoding import ONE_SEQUENCE, Decoding
from octavo.evaluation.simulator.replay import Replay, SimulatedClock
from octavo.evaluation.simulator.tally import Tally
from octavo.evaluation.simulator.traffic import Arrival
from octavo.execution.executor import Capacity
from octavo.execution.plan import Plan
from octavo.execution.simulated import SimulatedExecutor, StepSeconds
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

TICK_S = 2.0**-10
"""Of which all seconds are multiples: so sums are exact, in whatever order."""
BLOCK_SIZE = 4
DECODINGS = [ONE_SEQUENCE, ONE_SEQUENCE, Decoding("parallel", 3), Decoding("beam", 2)]


@dataclass(frozen=True)
class Machine:
    """What requests are served by."""

    depth: int
    num_blocks: int
    num_swap_blocks: int
    knobs: dict[str, Any]

    def serve(self, *, fast_forwards: bool) -> tuple[Engine, SimulatedClock]:
        """A new engine, and its clock."""
        capacity = Capacity(
            num_blocks=self.num_blocks,
            num_swap_blocks=self.num_swap_blocks,
            block_size=BLOCK_SIZE,
            block_bytes=1,
            max_model_len=64,
            vocab_size=50_000,
        )
        executor = SimulatedExecutor(capacity, cost, self.depth)
        return Engine(executor, **self.knobs), SimulatedClock(executor, fast_forwards=fast_forwards)


def cost(plan: Plan) -> StepSeconds:
    """Grows with tokens, contexts and moves."""
    num_moved = len(plan.swap_out) + len(plan.swap_in)
    contexts = sum(plan.starts)
    return StepSeconds(
        TICK_S * (200 + 3 * sum(plan.num_new) + contexts), TICK_S * 5 * num_moved, TICK_S * (50 + len(plan.rows))
    )


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    allocation = draw(st.sampled_from(["paged", "paged", "contiguous-max", "contiguous-pow2", "contiguous-oracle"]))
    policy = draw(st.sampled_from(["fcfs", "shortest-first", "static"]))
    max_num_seqs = draw(st.integers(1, 12))
    return Machine(
        depth=draw(st.sampled_from([1, 2])),
        num_blocks=draw(st.integers(17, 80)),
        num_swap_blocks=draw(st.sampled_from([0, 10, 60])) if allocation == "paged" else 0,
        knobs={
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": draw(st.integers(max_num_seqs, 80)),
            "prefix_cache_scope": draw(st.sampled_from(["tenant", "off"])),
            "preemption_mode": draw(st.sampled_from(["auto", "recompute", "swap"])),
            "kv_allocation": allocation,
            "scheduling_policy": policy,
            "overtaking_time": draw(st.sampled_from([0.5, 20.0])) if policy == "shortest-first" else 0.0,
        },
    )


@st.composite
def traffic(draw: st.DrawFn) -> list[Arrival]:
    gap = draw(st.sampled_from([0, 300, 3000, 30_000]))
    second, arrivals = 0.0, []
    for _ in range(draw(st.integers(1, 30))):
        second += TICK_S * draw(st.integers(0, gap))
        num_prefix, decoding = draw(st.sampled_from([0, 0, 9])), draw(st.sampled_from(DECODINGS))
        num_prompt, num_output = draw(st.integers(1, 20)), draw(st.integers(1, 34))
        arrivals.append(Arrival(second, num_prefix + num_prompt, num_output, num_prefix, decoding))
    return arrivals


def told(tally: Tally) -> dict[str, Any]:
    """All that a tally has but for what the memory held."""
    means = tally.moments.means()
    latencies = (tally.normalized, tally.first_token, tally.token, tally.latency)
    return {
        "latencies": [vars(each) for each in latencies],
        "requests": (means.running, means.waiting, tally.moments.seconds),
        "counts": tally.counts,
        "end": tally.end_s,
    }


def replayed(machine: Machine, arrivals: Sequence[Arrival], *, fast_forwards: bool) -> Tally:
    engine, clock = machine.serve(fast_forwards=fast_forwards)
    return Replay(engine, clock).run(arrivals)


@settings(max_examples=300, deadline=None)
@given(machines(), traffic())
def test_a_replay_tells_the_same(machine: Machine, arrivals: list[Arrival]) -> None:
    one_by_one, at_once = (replayed(machine, arrivals, fast_forwards=fast) for fast in (False, True))
    assert told(at_once) == told(one_by_one)
    held, means = at_once.moments.means(), one_by_one.moments.means()
    # The later of steps made at once take longer than the first, so that the memory fills in a slight bend.
    assert held.token_states == pytest.approx(means.token_states, abs=0.03)
    # Blocks are taken one at a time, and not in a straight line.
    assert tuple(held) == pytest.approx(tuple(means), abs=max(1, means.running) / machine.num_blocks)


@st.composite
def requests(draw: st.DrawFn) -> list[EngineRequest]:
    """Some with several sequences, and prompts that begin alike."""
    second, drawn = 0.0, []
    for number in range(draw(st.integers(1, 12))):
        second += TICK_S * draw(st.integers(0, 3000))
        num_shared, num_own, num_output = (draw(st.integers(0, most)) for most in (20, 10, 29))
        params = SamplingParams(
            n=draw(st.sampled_from([1, 1, 2, 3])), max_tokens=1 + num_output, ignore_eos=True, temperature=1
        )
        prompt = [*range(100, 100 + num_shared), *([200 + number] * (1 + num_own))]
        drawn.append(EngineRequest(str(number), prompt, params, second, seed=number, output_len_hint=params.max_tokens))
    return drawn


def answers(machine: Machine, requests: Sequence[EngineRequest], *, fast_forwards: bool) -> dict[str, Any]:
    """Each sequence's tokens and when it ended, and what the memory has done."""
    engine, clock = machine.serve(fast_forwards=fast_forwards)
    coming = list(requests)
    token_ids: dict[tuple[str, int], list[int]] = {}
    ends: dict[tuple[str, int], float] = {}
    while coming or engine.has_unfinished:
        if not engine.has_unfinished:
            clock.wait_until(coming[0].arrival_s)
        while coming and coming[0].arrival_s <= clock.now_s():
            with suppress(RequestError):
                engine.add(coming.pop(0))
        for update in clock.step(engine, coming[0].arrival_s if coming else math.inf):
            for sequence in update.sequences:
                name = update.request_id, sequence.index
                token_ids.setdefault(name, []).extend(sequence.token_ids)
                if sequence.finish_reason is not None:
                    ends[name] = clock.now_s()
    ledger = engine.ledger()
    return {"tokens": token_ids, "ends": ends, "steps": engine.num_steps, "memory": ledger}


@settings(max_examples=200, deadline=None)
@given(machines(), requests())
def test_each_sequence_gets_the_same_tokens(machine: Machine, requests: list[EngineRequest]) -> None:
    one_by_one, at_once = (answers(machine, requests, fast_forwards=fast) for fast in (False, True))
    assert at_once == one_by_one
