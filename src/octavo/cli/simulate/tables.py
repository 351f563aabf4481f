"""What `octavo simulate` prints of a machine, and of how it served requests."""

from collections.abc import Callable

from octavo.evaluation.simulator.tally import ReplayFigures
from octavo.execution.simulated import SimulatedExecutor

MIB = 2**20


def num_slots(executor: SimulatedExecutor) -> int:
    """Tokens that a machine has room for."""
    capacity = executor.capacity
    return capacity.num_blocks * capacity.block_size // len(capacity.layer_groups.groups)


def print_machine(name: str, num_replicas: int, executor: SimulatedExecutor) -> None:
    """What is simulated, and what of its memory is for what."""
    capacity, loaded = executor.capacity, executor.loaded
    pool_bytes, swap_bytes = (n * capacity.block_bytes for n in (capacity.num_blocks, capacity.num_swap_blocks))
    print(
        f"{num_replicas} x {name}: {loaded.weight_bytes / MIB:,.0f} MiB of weights in "
        f"{loaded.weights or loaded.dtype}, {num_slots(executor):,} token slots ({pool_bytes / MIB:,.0f} MiB), "
        f"{swap_bytes / MIB:,.0f} MiB to swap to"
    )


def print_refusal(message: str | None) -> None:
    """Why the first request was refused that was, if any."""
    if message is not None:
        print(f"Refused: {message}")


def print_figures(figures: dict[str, ReplayFigures]) -> None:
    """A column for each way."""
    spread = "{0.mean:.4g}  {0.p50:.4g}  {0.p90:.4g}  {0.p99:.4g}"
    rows: list[tuple[str, Callable[[ReplayFigures], str]]] = [
        ("requests answered (refused)", lambda each: f"{each.requests:,} ({each.refused:,})"),
        ("  of those cut short by memory", lambda each: f"{each.cut_short:,}"),
        ("seconds", lambda each: f"{each.seconds:,.1f}"),
        ("requests/s", lambda each: f"{each.request_rate:,.3f}"),
        ("output tokens/s (with prompts)", lambda each: f"{each.output_tok_s:,.1f} ({each.total_tok_s:,.1f})"),
        ("s: mean  p50  p90  p99", lambda _: ""),
        ("  normalized latency", lambda each: spread.format(each.normalized_latency_s)),
        ("  time to first token", lambda each: spread.format(each.first_token_s)),
        ("  time per output token", lambda each: spread.format(each.token_s) if each.token_s else "-"),
        ("  latency", lambda each: spread.format(each.latency_s)),
        ("requests running, waiting", lambda each: f"{each.mean_running:.2f}, {each.mean_waiting:.2f}"),
        ("KV memory: token states", lambda each: f"{each.token_states:.1%}"),
        ("  reserved, internal", lambda each: f"{each.reserved:.1%}, {each.internal:.1%}"),
        ("  external, cached", lambda each: f"{each.external:.1%}, {each.cached:.1%}"),
        ("preemptions (swaps)", lambda each: f"{each.preemptions:,} ({each.swaps:,})"),
        ("tokens computed again", lambda each: f"{each.recomputed_tokens:,}"),
        ("prompt tokens found in cache", lambda each: f"{each.hit_tokens:,}"),
        ("steps", lambda each: f"{each.steps:,}"),
    ]
    print(f"{'':32}" + "".join(f"{name:>36}" for name in figures))
    for name, cell in rows:
        print(f"{name:32}" + "".join(f"{cell(each):>36}" for each in figures.values()))
    print(
        "Normalized latency is a request's latency over its output tokens (paper, section 6.1), time per output token\n"
        "the mean gap between its tokens after the first. Running, waiting and memory are means over the time in\n"
        "which requests are there."
    )
