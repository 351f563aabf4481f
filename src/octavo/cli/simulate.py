"""`octavo simulate`: how a model on a machine would serve requests, by the scheduler and memory that serve them."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser, opened_executor
from octavo.cli.bench.output import progress_bar
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.workloads import MEANS, SIGMAS

if TYPE_CHECKING:
    from octavo.evaluation.simulator.tally import ReplayFigures
    from octavo.evaluation.simulator.traffic import Arrival, Lengths
    from octavo.execution.simulated import SimulatedExecutor

KNOBS = (
    "model",
    "revision",
    "gguf_file",
    "download_dir",
    "offline",
    "load_format",
    "dtype",
    "quantization",
    "max_model_len",
    "seed",
    "block_size",
    "kv_cache_memory",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "prefix_cache_scope",
    "swap_space",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_allocation",
    "steps_in_flight",
    "scheduling_policy",
    "overtaking_time",
    "preemption_mode",
    "cuda_graphs",
    "tensor_parallel_size",
    "num_threads",
)
"""Those that change who runs when, or how long a step takes."""
MIB = 2**20
DESCRIPTION = (
    "How a model on a machine would serve requests: throughput, latencies, batches, what the memory holds. Only the "
    "steps' times are reckoned, from their operations and bytes; who runs, waits, is preempted and shares blocks is "
    "decided by the very scheduler and memory manager that serve requests, with the same flags."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "simulate",
        help="how a model on a machine would serve requests",
        description=DESCRIPTION,
        epilog="examples: octavo simulate --shape opt-13b --device a100-40gb --dataset sharegpt --rate 2; "
        "octavo calibrate here.json --quantization int8 && octavo simulate --device here.json --quantization int8 "
        "--trace requests.csv --for-real",
    )
    machine = parser.add_argument_group("machine that is simulated")
    machine.add_argument(
        "--device",
        dest="machine",
        default="a100-40gb",
        metavar="NAME|FILE.json",
        help="a100-40gb, a100-80gb, h100, h200, l4, or a file of `octavo calibrate` (default: a100-40gb)",
    )
    add_count_flag(machine, "--replicas", 1, "such machines, which get requests in turn; figures are of all together")
    machine.add_argument(
        "--for-real", action="store_true", help="serve the same requests on this machine for real, too, and compare"
    )
    traffic = parser.add_argument_group("requests")
    add_count_flag(traffic, "--requests", 1000, "how many; of a trace the first")
    traffic.add_argument(
        "--trace", metavar="FILE.csv", help="requests with columns arrival_s, prompt_tokens, output_tokens"
    )
    traffic.add_argument(
        "--dataset", choices=sorted(MEANS), default="sharegpt", help="lengths of the paper's (default: sharegpt)"
    )
    for name, what in (("--prompt-tokens", "prompts"), ("--output-tokens", "outputs")):
        traffic.add_argument(
            name, metavar="MEAN[,DEVIATION]", help=f"tokens of {what} instead, log-normal; all alike without deviation"
        )
    traffic.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="requests a second on all replicas together, Poisson; inf is all at once (default: 1; of a trace its own)",
    )
    traffic.add_argument(
        "--length-scale", type=float, default=1.0, metavar="X", help="multiplies a trace's lengths (default: 1)"
    )
    finish_engine_parser(parser, run, *KNOBS)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Simulate, measure where asked for, and print.

    Raises:
        OctavoError: a flag is wrong, or the model does not fit on the machine.
    """
    from octavo.engine.engine import Engine
    from octavo.evaluation.simulator.devices import find_device
    from octavo.evaluation.simulator.machine import simulated_executor
    from octavo.evaluation.simulator.plots import plot
    from octavo.evaluation.simulator.replay import RealClock, Replay, SimulatedClock
    from octavo.evaluation.simulator.tally import Tally
    from octavo.evaluation.simulator.traffic import share

    if arguments.for_real and arguments.replicas > 1:
        raise ConfigError("--for-real serves on this machine alone: leave --replicas at 1")
    executor = simulated_executor(config, find_device(arguments.machine))
    arrivals = _arrivals(arguments, config, executor.capacity.max_model_len)
    _print_machine(arguments, executor)
    whole = Tally()
    with progress_bar(len(arrivals), "request", "Simulating") as bar:
        for replica in range(arguments.replicas):
            if replica:
                executor = simulated_executor(config, find_device(arguments.machine))
            engine = Engine.configured(executor, config)
            whole.merge(
                Replay(engine, SimulatedClock(executor), bar.update).run(share(arrivals, replica, arguments.replicas))
            )
    figures = {"simulated": whole.figures()}
    if arguments.for_real:
        with opened_executor(config) as real, progress_bar(len(arrivals), "request", "Serving") as bar:
            figures["measured"] = (
                Replay(Engine.configured(real, config), RealClock(), bar.update).run(arrivals).figures()
            )
    _print(figures)
    return Outcome(figures, lambda _, path: plot(whole, path))


def _arrivals(arguments: argparse.Namespace, config: EngineConfig, longest: int) -> "Sequence[Arrival]":
    """The requests that the flags ask for."""
    from itertools import islice

    from octavo.evaluation.simulator.traffic import Lengths, at_rate, drawn, faster, read_trace

    rate: float | None = arguments.rate
    if rate is not None and not rate > 0:
        raise ConfigError(f"--rate must be over 0, got {rate:g}")
    if not (arguments.length_scale > 0 and math.isfinite(arguments.length_scale)):
        raise ConfigError(f"--length-scale must be over 0, got {arguments.length_scale:g}")
    lengths = [name for name in ("prompt_tokens", "output_tokens") if getattr(arguments, name) is not None]
    if arguments.trace:
        if lengths:
            raise ConfigError(f"--trace has its own lengths: leave out --{lengths[0].replace('_', '-')}")
        found = read_trace(arguments.trace, arguments.requests, arguments.length_scale, longest)
        if rate is None or len(found) < 2:
            return found
        last_s = found[-1].arrival_s
        return list(faster(found, math.inf if not last_s else rate * last_s / (len(found) - 1)))
    if arguments.length_scale != 1:
        raise ConfigError("--length-scale is for --trace: use --prompt-tokens and --output-tokens")
    own = [
        Lengths(mean, mean * math.sqrt(math.expm1(sigma**2)))
        for mean, sigma in zip(MEANS[arguments.dataset], SIGMAS, strict=True)
    ]
    prompts = _lengths("--prompt-tokens", arguments.prompt_tokens, own[0])
    outputs = _lengths("--output-tokens", arguments.output_tokens, own[1])
    seed = config.seed or 0
    pairs = islice(drawn(prompts, outputs, longest, seed), arguments.requests)
    return list(at_rate(pairs, 1.0 if rate is None else rate, seed))


def _lengths(name: str, given: str | None, own: "Lengths") -> "Lengths":
    """What a flag asks for, or a data set's own."""
    from octavo.evaluation.simulator.traffic import Lengths

    if given is None:
        return own
    try:
        numbers = [float(part) for part in given.split(",")]
        if len(numbers) > 2 or not all(math.isfinite(number) for number in numbers) or numbers[0] < 1:
            raise ValueError
        if len(numbers) == 2 and numbers[1] < 0:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{name} {given}: it is a mean of 1 or more, and perhaps a deviation: 200 or 200,150"
        ) from None
    return Lengths(*numbers)


def _print_machine(arguments: argparse.Namespace, executor: "SimulatedExecutor") -> None:
    """What is simulated, and what of its memory is for what."""
    capacity, loaded = executor.capacity, executor.loaded
    num_slots = capacity.num_blocks * capacity.block_size // len(capacity.layer_groups.groups)
    pool_bytes, swap_bytes = (n * capacity.block_bytes for n in (capacity.num_blocks, capacity.num_swap_blocks))
    print(
        f"{arguments.replicas} x {arguments.machine}: {loaded.weight_bytes / MIB:,.0f} MiB of weights in "
        f"{loaded.weights or loaded.dtype}, {num_slots:,} token slots ({pool_bytes / MIB:,.0f} MiB), "
        f"{swap_bytes / MIB:,.0f} MiB to swap to"
    )


def _print(figures: "dict[str, ReplayFigures]") -> None:
    """A column for each way."""
    spread = "{0.mean:.4g}  {0.p50:.4g}  {0.p90:.4g}  {0.p99:.4g}"
    rows: list[tuple[str, Callable[[ReplayFigures], str]]] = [
        ("requests answered (refused)", lambda each: f"{each.requests:,} ({each.refused:,})"),
        ("seconds", lambda each: f"{each.seconds:,.1f}"),
        ("requests/s", lambda each: f"{each.request_rate:,.3f}"),
        ("output tokens/s (with prompts)", lambda each: f"{each.output_tok_s:,.1f} ({each.total_tok_s:,.1f})"),
        ("s: mean  p50  p90  p99", lambda _: ""),
        ("  normalized latency", lambda each: spread.format(each.normalized_latency_s)),
        ("  time to first token", lambda each: spread.format(each.first_token_s)),
        ("  time per output token", lambda each: spread.format(each.token_s)),
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
    print(f"{'':32}" + "".join(f"{name:>34}" for name in figures))
    for name, cell in rows:
        print(f"{name:32}" + "".join(f"{cell(each):>34}" for each in figures.values()))
    print(
        "Normalized latency is a request's latency over its output tokens (paper, section 6.1), time per output token\n"
        "the mean gap between its tokens after the first. Running, waiting and memory are means over the time in\n"
        "which requests are there."
    )
