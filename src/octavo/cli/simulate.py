"""`octavo simulate`: how a model on a machine would serve requests, by the scheduler and memory that serve them."""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser, opened_executor
from octavo.cli.bench.output import progress_bar
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.workloads import MEANS, SIGMAS

if TYPE_CHECKING:
    from octavo.evaluation.simulator.sweep import Targets
    from octavo.evaluation.simulator.tally import ReplayFigures, Tally
    from octavo.evaluation.simulator.traffic import Arrival, Lengths
    from octavo.execution.simulated import SimulatedExecutor

    Traffic = Callable[[float | None], Sequence[Arrival]]

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
    sweep = parser.add_argument_group("highest rate")
    sweep.add_argument(
        "--sweep",
        action="store_true",
        help="find the highest rate at which latencies keep these targets, from --rate on",
    )
    for name, what in (
        ("--max-normalized-latency", "a request's latency over its output tokens, on average"),
        ("--max-first-token", "until the first token, for nine requests in ten"),
        ("--max-token", "between two tokens of an answer, for nine requests in ten"),
    ):
        sweep.add_argument(name, type=float, metavar="S", help=f"seconds of {what}")
    finish_engine_parser(parser, run, *KNOBS)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Simulate, measure where asked for, and print.

    Raises:
        OctavoError: a flag is wrong, or the model does not fit on the machine.
    """
    from octavo.evaluation.simulator.devices import find_device
    from octavo.evaluation.simulator.machine import simulated_executor

    targets = _targets(arguments)
    if arguments.for_real and arguments.replicas > 1:
        raise ConfigError("--for-real serves on this machine alone: leave --replicas at 1")
    executor = simulated_executor(config, find_device(arguments.machine))
    traffic = _traffic(arguments, config, executor.capacity.max_model_len)
    _print_machine(arguments, executor)
    if targets is None:
        return _run_once(arguments, config, executor, traffic(arguments.rate))
    return _run_sweep(arguments, config, executor, traffic, targets)


def _run_once(
    arguments: argparse.Namespace, config: EngineConfig, executor: "SimulatedExecutor", arrivals: "Sequence[Arrival]"
) -> Outcome:
    """One rate, and for real where asked for."""
    from octavo.engine.engine import Engine
    from octavo.evaluation.simulator.plots import plot
    from octavo.evaluation.simulator.replay import RealClock, Replay
    from octavo.evaluation.simulator.step_model import StepModel
    from octavo.evaluation.simulator.timed import TimedExecutor

    cost = executor.cost
    assert isinstance(cost, StepModel)  # of `simulated_executor`
    with progress_bar(len(arrivals), "request", "Simulating") as bar:
        whole = _simulated(arguments, config, executor, arrivals, done=bar.update)
    figures, drift = {"simulated": whole.figures()}, 1.0
    if arguments.for_real:
        with opened_executor(config) as real, progress_bar(len(arrivals), "request", "Serving") as bar:
            timed = TimedExecutor(real, cost.work)
            engine = Engine.configured(timed, config)  # type: ignore[arg-type]
            figures["measured"] = Replay(engine, RealClock(), bar.update).run(arrivals).figures()
        drift = timed.seconds_over(cost)
        executor.cost = partial(cost.slowed, drift)
        figures["simulated, as fast"] = _simulated(arguments, config, executor, arrivals).figures()
    _print(figures)
    if arguments.for_real:
        print(
            f"All steps together took {drift:.2f} times what the device's rates say: where that is not about 1, the "
            "machine is\nnot as fast as when it was calibrated, or is another. The last column is simulated with steps "
            "as much slower or faster."
        )
    return Outcome(figures, lambda _, path: plot(whole, path))


def _run_sweep(
    arguments: argparse.Namespace,
    config: EngineConfig,
    executor: "SimulatedExecutor",
    traffic: "Traffic",
    targets: "Targets",
) -> Outcome:
    """The rates that are tried, and the highest that is sustained."""
    from octavo.evaluation.simulator.plots import plot_sweep
    from octavo.evaluation.simulator.sweep import best, sustained_rates

    def serve(rate: float, gives_up: "Callable[[Tally], bool]") -> "Tally":
        return _simulated(arguments, config, executor, traffic(rate), gives_up)

    tried, first = [], arguments.rate or float(arguments.replicas)
    print(
        f"{'requests/s':>12} {'normalized':>11} {'first token':>12} {'a token':>9} {'running':>9}   (s, s p90, s p90)"
    )
    for each in sustained_rates(serve, targets, lambda _: arguments.requests, first):
        tried.append(each)
        own = each.figures
        print(
            f"{each.rate:12.4g} {own.normalized_latency_s.mean:11.4g} {own.first_token_s.p90:12.4g} "
            f"{own.token_s.p90:9.4g} {own.mean_running:9.1f}   {'sustained' if each.is_sustained else 'too much'}",
            flush=True,
        )
    found = best(tried)
    print("no rate is sustained" if found is None else f"sustained: {found.rate:.4g} requests/s")
    return Outcome(tried, plot_sweep)


def _simulated(
    arguments: argparse.Namespace,
    config: EngineConfig,
    executor: "SimulatedExecutor",
    arrivals: "Sequence[Arrival]",
    gives_up: "Callable[[Tally], bool]" = lambda _: False,
    done: Callable[[], object] = lambda: None,
) -> "Tally":
    """All replicas' tally. They give up together: the first one's share tells for all."""
    from octavo.engine.engine import Engine
    from octavo.evaluation.simulator.machine import another
    from octavo.evaluation.simulator.replay import Replay, SimulatedClock
    from octavo.evaluation.simulator.tally import Tally
    from octavo.evaluation.simulator.traffic import share

    whole = Tally()
    for replica in range(arguments.replicas):
        own = another(executor)
        replay = Replay(Engine.configured(own, config), SimulatedClock(own), done)
        whole.merge(replay.run(share(arrivals, replica, arguments.replicas), gives_up))
    return whole


def _targets(arguments: argparse.Namespace) -> "Targets | None":
    """What a sweep is to keep; None where there is none."""
    from octavo.evaluation.simulator.sweep import Targets

    given = {name: getattr(arguments, f"max_{name}") for name in Targets.__struct_fields__}
    for name, seconds in given.items():
        if seconds is not None and not 0 < seconds < math.inf:
            raise ConfigError(f"--max-{name.replace('_', '-')} must be over 0, got {seconds:g}")
    if not any(given.values()):
        if arguments.sweep:
            raise ConfigError(
                "--sweep needs to know what rates are good for: --max-normalized-latency, --max-first-token or "
                "--max-token"
            )
        return None
    if not arguments.sweep or arguments.for_real:
        raise ConfigError("latency targets are for --sweep, and that only simulates")
    return Targets(**given)


def _traffic(arguments: argparse.Namespace, config: EngineConfig, longest: int) -> "Traffic":
    """The requests that the flags ask for, at whatever rate."""
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
        span_s = found[-1].arrival_s

        def replayed(rate: float | None) -> "list[Arrival]":
            if rate is None or not span_s:
                return found
            return list(faster(found, rate * span_s / (len(found) - 1)))

        return replayed
    if arguments.length_scale != 1:
        raise ConfigError("--length-scale is for --trace: use --prompt-tokens and --output-tokens")
    means = zip(MEANS[arguments.dataset], SIGMAS, strict=True)
    own = [Lengths(mean, mean * math.sqrt(math.expm1(sigma**2))) for mean, sigma in means]
    prompts = _lengths("--prompt-tokens", arguments.prompt_tokens, own[0])
    outputs = _lengths("--output-tokens", arguments.output_tokens, own[1])
    seed = config.seed or 0
    pairs = list(islice(drawn(prompts, outputs, longest, seed), arguments.requests))
    return lambda rate: list(at_rate(pairs, 1.0 if rate is None else rate, seed))


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
    print(f"{'':32}" + "".join(f"{name:>36}" for name in figures))
    for name, cell in rows:
        print(f"{name:32}" + "".join(f"{cell(each):>36}" for each in figures.values()))
    print(
        "Normalized latency is a request's latency over its output tokens (paper, section 6.1), time per output token\n"
        "the mean gap between its tokens after the first. Running, waiting and memory are means over the time in\n"
        "which requests are there."
    )
