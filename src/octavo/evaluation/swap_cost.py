"""What a preemption costs by swap and by recompute, for each block size (paper, section 7.3 and figure 19)."""

import dataclasses
import random
import statistics
from collections.abc import Iterator

import msgspec

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.execution.executor import Executor
from octavo.execution.local import LocalExecutor
from octavo.execution.plan import NewRow, Plan, TableEdit
from octavo.sampling_params import SamplingParams


class SwapCost(msgspec.Struct, frozen=True):
    """Medians over the repeats, in milliseconds, for one sequence's blocks."""

    block_size: int
    num_tokens: int
    num_blocks: int
    block_bytes: int
    recompute_ms: float
    swap_out_ms: float
    swap_in_ms: float

    @property
    def swap_ms(self) -> float:
        """Out and back."""
        return self.swap_out_ms + self.swap_in_ms


def measure(config: EngineConfig, block_sizes: list[int], num_tokens: int, repeats: int) -> Iterator[SwapCost]:
    """For each block size load the model and take the times that its runner reports: one sequence computed in one step,
    then its blocks, scattered over the pool, moved out and back in one call each.

    Raises:
        OctavoError: the model cannot be loaded, or pool or swap space are too small.
    """
    for block_size in block_sizes:
        executor = LocalExecutor(dataclasses.replace(config, block_size=block_size))
        try:
            yield cost_of(executor, num_tokens, repeats)
        finally:
            executor.close()


def cost_of(executor: Executor, num_tokens: int, repeats: int) -> SwapCost:
    """What a preemption costs on an executor that nothing has run on.

    Raises:
        ConfigError: pool, swap space or model length are too small.
    """
    capacity = executor.capacity
    num_blocks = -(-num_tokens // capacity.block_size)
    for name, room in (("--kv-cache-memory", capacity.num_blocks), ("--swap-space", capacity.num_swap_blocks)):
        if num_blocks > room:
            raise ConfigError(
                f"{num_tokens} tokens take {num_blocks} blocks of {capacity.block_size}, and {name} has room for "
                f"{room}: raise it"
            )
    if num_tokens > capacity.max_model_len:
        raise ConfigError(f"--tokens {num_tokens} is over the model length of {capacity.max_model_len}: lower it")
    rng = random.Random(0)
    chosen = [
        (rng.sample(range(capacity.num_blocks), num_blocks), rng.sample(range(capacity.num_swap_blocks), num_blocks))
        for _ in range(repeats + 1)
    ]
    for blocks, places in chosen:  # or the first moves would find memory that nobody has written yet
        _move(executor, blocks, places)
    times_s = []
    for repeat, (blocks, places) in enumerate(chosen):
        prompt = [rng.randrange(capacity.vocab_size) for _ in range(num_tokens)]
        recompute = Plan(
            removed=[0] if repeat else [],
            added=[NewRow(0, 0, prompt, SamplingParams(), 0, [])],
            tables=[TableEdit(0, blocks)],
            rows=[0],
            starts=[0],
            num_new=[num_tokens],
        )
        compute_s = executor.submit(recompute).result().compute_s
        times_s.append((compute_s, *_move(executor, blocks, places)))
    medians_ms = [statistics.median(seconds) * 1e3 for seconds in zip(*times_s[1:], strict=True)]
    return SwapCost(capacity.block_size, num_tokens, num_blocks, capacity.block_bytes, *medians_ms)


def _move(executor: Executor, blocks: list[int], places: list[int]) -> tuple[float, float]:
    """Seconds to move blocks to places of the swap space, and back."""
    swap_out = Plan(swap_out=list(zip(blocks, places, strict=True)))
    swap_in = Plan(swap_in=list(zip(places, blocks, strict=True)))
    return executor.submit(swap_out).result().move_s, executor.submit(swap_in).result().move_s


def plot(costs: list[SwapCost], path: str) -> None:
    """Draw milliseconds against block size, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes = [cost.block_size for cost in costs]
    for name, label in (("recompute_ms", "recompute"), ("swap_ms", "swap out and in"), ("swap_out_ms", "swap out")):
        axes.plot(sizes, [getattr(cost, name) for cost in costs], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yscale("log")
    axes.set(xlabel="block size (tokens)", ylabel="ms", title=f"A preemption of {costs[0].num_tokens} tokens")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
