"""What of the KV memory holds token states, under each way to allocate it (paper, section 3.1 and figure 2)."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import msgspec

from octavo.config import KVAllocation
from octavo.engine.engine import Engine
from octavo.evaluation.workloads import Work
from octavo.execution.executor import Capacity
from octavo.execution.simulated import SimulatedExecutor
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

MAX_MODEL_LEN = 2048
"""Of OPT, the paper's model."""
VOCAB_SIZE = 50_272
ALLOCATIONS: tuple[KVAllocation, ...] = get_args(KVAllocation)[1:] + get_args(KVAllocation)[:1]
"""In the order of the paper's figure: the baselines, then paged."""
PAPER_PERCENT: dict[KVAllocation, float] = {
    "contiguous-max": 20.4,
    "contiguous-pow2": 26.8,
    "contiguous-oracle": 38.2,
    "paged": 96.3,
}
"""Percent of the KV memory that holds token states (paper, figure 2)."""


class WasteShares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the KV memory, 0 to 1, averaged over the steps in which requests wait for memory. They add up to 1."""

    allocation: KVAllocation
    num_steps: int
    """Steps in which requests waited."""
    mean_running: float
    """Requests that ran in such a step."""
    token_states: float
    reserved: float
    """For future tokens of the same sequence."""
    internal: float
    """Allocated, and never filled."""
    external: float
    """Free, and of no use to whoever waits."""
    paper_percent: float
    """What figure 2 of the paper shows for token states."""


def measure(
    work: Sequence[Work], num_slots: int, block_size: int, max_num_batched_tokens: int
) -> Iterator[WasteShares]:
    """Run the work, all of it submitted at once, under each allocation, on the simulated executor.

    Every request runs to its own length, which the policies that ask for a hint are told.

    Args:
        num_slots: token slots of the KV memory.

    Raises:
        RequestError: a request does not fit into so many slots.
    """
    for allocation in ALLOCATIONS:
        yield _measure(allocation, work, num_slots // block_size, block_size, max_num_batched_tokens)


def _measure(
    allocation: KVAllocation, work: Sequence[Work], num_blocks: int, block_size: int, max_num_batched_tokens: int
) -> WasteShares:
    executor = SimulatedExecutor(
        Capacity(
            num_blocks=num_blocks,
            block_size=block_size,
            block_bytes=1,
            max_model_len=MAX_MODEL_LEN,
            vocab_size=VOCAB_SIZE,
        )
    )
    engine = Engine(
        executor,
        max_num_seqs=len(work),
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_cache_scope="off",
        kv_allocation=allocation,
    )
    for number, each in enumerate(work):
        params = SamplingParams(temperature=0, max_tokens=each.out, ignore_eos=True)
        engine.add(
            EngineRequest(str(number), each.ids, params, arrival_s=float(number), seed=number, output_len_hint=each.out)
        )
    num_steps = num_running = filled = reserved = fragmented = unused = 0
    while engine.has_unfinished:
        engine.step()
        if engine.scheduler.num_waiting:
            ledger = engine.ledger()
            num_steps += 1
            num_running += engine.scheduler.num_running
            filled += ledger.num_filled_slots
            reserved += ledger.num_reserved_slots
            fragmented += ledger.num_fragmented_slots
            unused += (ledger.num_blocks - ledger.num_used_blocks) * block_size
    slots = max(1, num_steps) * num_blocks * block_size
    return WasteShares(
        allocation=allocation,
        num_steps=num_steps,
        mean_running=num_running / max(1, num_steps),
        token_states=filled / slots,
        reserved=reserved / slots,
        internal=fragmented / slots,
        external=unused / slots,
        paper_percent=PAPER_PERCENT[allocation],
    )


def plot(measured: Sequence[WasteShares], path: str) -> None:
    """Draw the shares as stacked bars, beside the paper's token states, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    draw(axes, measured, [each.allocation for each in measured])
    axes.set(title="Where the KV memory is while requests wait for it")
    figure.savefig(path, dpi=120)


def draw(axes: Any, measured: Sequence[WasteShares], names: Sequence[str]) -> None:
    """Draw the shares into matplotlib's axes, a bar for each name."""
    bottom = [0.0] * len(measured)
    for part in ("token_states", "reserved", "internal", "external"):
        heights = [100 * getattr(each, part) for each in measured]
        axes.bar(names, heights, bottom=bottom, label=part.replace("_", " "))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.plot(names, [each.paper_percent for each in measured], "k_", markersize=40, label="token states in the paper")
    axes.set(ylabel="% of the KV memory")
    axes.legend()
