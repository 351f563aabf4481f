"""How a request is preempted: what auto reckons, and what moves."""

import pytest

from octavo.config import PreemptionMode
from octavo.engine.engine import Engine
from octavo.execution.plan import Plan, StepOutput
from octavo.memory import PagedManager
from octavo.sampling_params import SamplingParams
from octavo.scheduling import EngineRequest
from octavo.scheduling.preemption import Preemption, Rate
from octavo.scheduling.request import Request
from paged_memory import paged
from scheduling.checking import ShadowExecutor, capacity, check_engine, seed_of

BLOCK_BYTES = 1000


def held(num_blocks: int, num_swap_blocks: int = 10) -> tuple[Request, PagedManager]:
    """A request that holds so many full blocks of 16, and the memory."""
    memory = paged(num_blocks, 16, num_swap_blocks=num_swap_blocks)
    request = Request.create(EngineRequest("a", [1], SamplingParams(), 0.0), 1000, frozenset(), 1, memory.new_table)
    memory.append(request.sequences[0].table, 16 * num_blocks)
    return request, memory


def learned(mode: PreemptionMode, tokens_a_second: float, bytes_a_second: float) -> Preemption:
    preemption = Preemption(mode, BLOCK_BYTES)
    preemption.learn(Plan(rows=[0], num_new=[500]), StepOutput([], compute_s=500 / tokens_a_second))
    preemption.learn(Plan(swap_out=[(0, 0)] * 5), StepOutput([], move_s=5 * BLOCK_BYTES / bytes_a_second))
    return preemption


def test_auto_takes_what_has_been_faster_for_such_an_amount() -> None:
    request, memory = held(10)
    fast_moves = learned("auto", 1000, 1e6).decide(request, memory)
    assert (fast_moves.swaps, fast_moves.why) == (
        True,
        "auto reckons 160.0 ms to recompute, 20.0 ms to move out and back",
    )
    assert not learned("auto", 1000, 1e5).decide(request, memory).swaps


def test_a_full_swap_space_leaves_recompute_in_every_mode() -> None:
    request, memory = held(10, num_swap_blocks=9)
    for mode in ("auto", "recompute", "swap"):
        decision = learned(mode, 1000, 1e9).decide(request, memory)
        assert not decision.swaps
        assert mode == "recompute" or decision.why == "the swap space has 9 free blocks of 10 needed"


def test_the_modes_asked_for_are_not_reckoned_with() -> None:
    request, memory = held(10)
    assert learned("swap", 1e9, 1).decide(request, memory).swaps
    assert not learned("recompute", 1, 1e9).decide(request, memory).swaps


def test_decoding_steps_say_nothing_about_recomputing() -> None:
    preemption = Preemption("auto", BLOCK_BYTES)
    preemption.learn(Plan(rows=[0, 1], num_new=[1, 1]), StepOutput([], compute_s=1.0))
    assert preemption.compute.seconds_for(1) is None
    preemption.learn(Plan(rows=[0, 1], num_new=[1, 99]), StepOutput([], compute_s=1.0))
    assert preemption.compute.seconds_for(100) == pytest.approx(1.0)


def test_a_rate_follows_what_changes() -> None:
    rate = Rate()
    assert rate.seconds_for(1) is None
    for _ in range(50):
        rate.learn(100, 1.0)
    assert rate.seconds_for(100) == pytest.approx(1.0)
    for _ in range(50):
        rate.learn(100, 2.0)
    assert rate.seconds_for(100) == pytest.approx(2.0, rel=0.01)


def crowded(num_swap_blocks: int, scope: str = "off") -> tuple[Engine, ShadowExecutor]:
    """Two requests that outgrow the pool: the second, of three sequences, is preempted."""
    executor = ShadowExecutor(capacity(16, block_size=4, max_model_len=100, num_swap_blocks=num_swap_blocks))
    engine = Engine(executor, max_num_seqs=8, max_num_batched_tokens=64, prefix_cache_scope=scope)  # type: ignore[arg-type]
    for number, (num_prompt, n, max_tokens) in enumerate([(6, 1, 50), (9, 3, 14)]):
        params = SamplingParams(n=n, max_tokens=max_tokens)
        prompt = [number * 100 + i for i in range(num_prompt)]
        engine.add(EngineRequest(str(number), prompt, params, float(number), seed_of(1, number)))
    return engine, executor


def step_until_preempted(engine: Engine) -> None:
    while engine.ledger().totals.num_preemptions == 0:
        engine.step()
        check_engine(engine)


def finish(engine: Engine) -> None:
    while engine.has_unfinished:
        engine.step()
        check_engine(engine)


def test_a_swap_moves_each_distinct_block_once_and_computes_nothing_again() -> None:
    engine, executor = crowded(num_swap_blocks=16)
    num_held = 0
    while engine.ledger().totals.num_preemptions == 0:
        running = engine.scheduler.running
        num_held = len({b for s in running[-1].sequences for b in s.table.held}) if running else 0
        engine.step()
        check_engine(engine)
    ledger = engine.ledger()
    assert ledger.totals.num_swaps == 1
    assert executor.num_moved == ledger.totals.num_moved_blocks == ledger.num_swapped_blocks == num_held
    finish(engine)
    assert executor.num_moved == engine.ledger().totals.num_moved_blocks == 2 * num_held
    assert engine.ledger().totals.num_recomputed_tokens == 0


def test_blocks_that_the_index_still_has_are_not_moved_back() -> None:
    engine, _ = crowded(num_swap_blocks=16, scope="tenant")
    step_until_preempted(engine)
    num_out = engine.ledger().totals.num_moved_blocks
    engine.abort("0")
    finish(engine)
    num_back = engine.ledger().totals.num_moved_blocks - num_out
    assert num_back < num_out, "the full ones were found"


def test_aborting_what_is_swapped_out_empties_the_swap_space() -> None:
    engine, _ = crowded(num_swap_blocks=16)
    step_until_preempted(engine)
    before = engine.ledger().num_swapped_blocks
    engine.abort("1", 1)
    check_engine(engine)
    assert 0 < engine.ledger().num_swapped_blocks < before, "what the others share stays"
    engine.abort("1")
    check_engine(engine)
    assert engine.ledger().num_swapped_blocks == 0
    finish(engine)
