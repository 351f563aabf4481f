"""What planning a step costs: the scheduler and the memory manager alone, over a simulated executor."""

import statistics
import time
from collections.abc import Iterator

import msgspec

from octavo.engine.engine import Engine
from octavo.execution.executor import Capacity
from octavo.execution.simulated import SimulatedExecutor
from octavo.layer_groups import Full, Window, group_layers
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest

BLOCK_SIZE = 16
VOCAB_SIZE = 50_000
WINDOW = 512
"""Gemma 3's."""


class SchedulerCost(msgspec.Struct, frozen=True):
    """Medians over the measured steps, in microseconds a sequence a step."""

    num_sequences: int
    num_tokens: int
    """Length of each sequence when the measurement begins."""
    num_groups: int
    schedule_us: float
    update_us: float

    @property
    def total_us(self) -> float:
        return self.schedule_us + self.update_us


def measure(num_sequences: int, num_tokens: int, num_groups: int = 1, num_steps: int = 200) -> SchedulerCost:
    """Time `schedule` and `update` over steps in which `num_sequences` greedy one-sequence requests of `num_tokens`
    tokens decode.

    The steps are consecutive, so block boundaries are crossed as often as in real decoding.

    Args:
        num_groups: layer groups, the first of which needs every token, and the others a window of `WINDOW`.
    """
    engine = _decoding_engine(num_sequences, num_tokens, num_groups, num_steps)
    schedule_s, update_s = [], []
    for _ in range(num_steps):
        start = time.perf_counter()
        step = engine.scheduler.schedule()
        planned = time.perf_counter()
        output = engine.executor.submit(step.plan).result()
        ran = time.perf_counter()
        engine.scheduler.update(step, output)
        update_s.append(time.perf_counter() - ran)
        schedule_s.append(planned - start)
    per_sequence = 1e6 / num_sequences
    return SchedulerCost(
        num_sequences,
        num_tokens,
        num_groups,
        statistics.median(schedule_s) * per_sequence,
        statistics.median(update_s) * per_sequence,
    )


def sweep(sequence_counts: list[int], lengths: list[int], num_groups: int) -> Iterator[SchedulerCost]:
    """Measure every combination, one at a time."""
    for num_tokens in lengths:
        for num_sequences in sequence_counts:
            yield measure(num_sequences, num_tokens, num_groups)


def _decoding_engine(num_sequences: int, num_tokens: int, num_groups: int, num_steps: int) -> Engine:
    """An engine all of whose requests are past their prefill and stay in decode for `num_steps` steps."""
    max_tokens = 2 * num_steps + num_sequences
    blocks_each = -(-(num_tokens + max_tokens) // BLOCK_SIZE)
    capacity = Capacity(
        num_blocks=num_sequences * blocks_each * num_groups,
        block_size=BLOCK_SIZE,
        layer_groups=group_layers([Full(), *(num_groups - 1) * [Window(WINDOW)]]),
        block_bytes=1,
        max_model_len=num_tokens + max_tokens,
        vocab_size=VOCAB_SIZE,
    )
    engine = Engine(
        SimulatedExecutor(capacity), max_num_seqs=num_sequences, max_num_batched_tokens=num_sequences * num_tokens
    )
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    prompt = list(range(num_tokens))
    for number in range(num_sequences):
        engine.add(EngineRequest(str(number), prompt, params, float(number), number))
    while engine.scheduler.num_waiting or not all(request.is_decoding for request in engine.scheduler.running):
        engine.step()
    return engine


def plot(costs: list[SchedulerCost], path: str) -> None:
    """Draw microseconds a sequence a step against sequences, one line for each length, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for num_tokens in sorted({cost.num_tokens for cost in costs}):
        line = [cost for cost in costs if cost.num_tokens == num_tokens]
        axes.plot(
            [c.num_sequences for c in line], [c.total_us for c in line], marker="o", label=f"{num_tokens:,} tokens each"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([c.num_sequences for c in costs], [str(c.num_sequences) for c in costs])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="sequences in decode", ylabel="schedule + update\n(µs a sequence a step)", title="Scheduler cost")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
