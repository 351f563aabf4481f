"""`octavo simulate --sweep` and `--plan`: the highest rates that keep latencies, of one machine or of many kinds."""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from octavo.cli.bench.benchmark import Outcome
from octavo.cli.bench.output import progress_bar
from octavo.cli.simulate.serving import simulated
from octavo.cli.simulate.tables import num_slots, print_refusal
from octavo.cli.simulate.traffic import Traffic, own_rate, read_traffic
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.processes import side_by_side
from octavo.evaluation.simulator import traffic as requests
from octavo.evaluation.simulator.devices import DEVICES, Device, find_device
from octavo.evaluation.simulator.machine import RANKS, simulated_executor
from octavo.evaluation.simulator.plan import Option, Prices
from octavo.evaluation.simulator.plots import plot_options, plot_sweep
from octavo.evaluation.simulator.sweep import HIGHEST, LOWEST, Targets, Tried, best, sustained_rates
from octavo.evaluation.simulator.tally import Tally
from octavo.execution import sizing
from octavo.execution.machine import cores
from octavo.execution.simulated import SimulatedExecutor

PLAN_RESOLUTION = 1.1
"""Of the rates that kinds of machines are compared by."""


def read_targets(arguments: argparse.Namespace) -> Targets | None:
    """What rates are to keep; None where none is looked for.

    Raises:
        ConfigError: a flag is wrong, or goes with none of the others.
    """
    is_asked = arguments.sweep or arguments.plan
    if not arguments.plan and (arguments.devices or arguments.price):
        raise ConfigError("--devices and --price are for --plan")
    if arguments.sweep and arguments.rate is not None and not LOWEST <= arguments.rate <= HIGHEST:
        raise ConfigError(
            f"--sweep begins with a --rate from {LOWEST:.4f} to {HIGHEST:,.0f} requests/s, got {arguments.rate:g}"
        )
    if arguments.beam_width is not None and arguments.max_token is not None:
        raise ConfigError("--max-token is the time between two tokens, and beams come whole: leave it out")
    given = {name: getattr(arguments, f"max_{name}") for name in Targets.__struct_fields__}
    for name, seconds in given.items():
        if seconds is not None and not 0 < seconds < math.inf:
            raise ConfigError(f"--max-{name.replace('_', '-')} must be over 0, got {seconds:g}")
    if not any(given.values()):
        if is_asked:
            raise ConfigError(
                "--sweep and --plan need to know what rates are good for: --max-normalized-latency, --max-first-token "
                "or --max-token"
            )
        return None
    if not is_asked or arguments.for_real:
        raise ConfigError("latency targets are for --sweep and --plan, and these only simulate")
    return Targets(**given)


def sweep(
    arguments: argparse.Namespace,
    config: EngineConfig,
    executor: SimulatedExecutor,
    traffic: Traffic,
    targets: Targets,
) -> Outcome:
    """Print the rates that are tried, and the highest that is sustained."""
    num_replicas: int = arguments.replicas

    refusal: str | None = None

    def serve(rate: float, gives_up: Callable[[Tally], bool]) -> Tally:
        nonlocal refusal
        tally = simulated(config, executor, num_replicas, traffic(rate), gives_up)
        refusal = refusal or tally.refusal
        return tally

    tried: list[Tried] = []
    first = arguments.rate or own_rate(traffic(None)) or float(num_replicas)
    print(
        f"{'requests/s':>12} {'normalized':>11} {'first token':>12} {'a token':>9} {'running':>9}   (s, s p90, s p90)"
    )
    for each in sustained_rates(serve, targets, lambda rate: len(traffic(rate)) / num_replicas, first):
        tried.append(each)
        own = each.figures
        print(
            f"{each.rate:12.4g} {own.normalized_latency_s.mean:11.4g} {own.first_token_s.p90:12.4g} "
            f"{own.token_s.p90 if own.token_s else math.nan:9.4g} {own.mean_running:9.1f}   "
            f"{'sustained' if each.is_sustained else 'too much, given up' if each.is_given_up else 'too much'}",
            flush=True,
        )
    found = best(tried)
    if any(each.is_given_up for each in tried):
        print("Figures of rates that were given up are those until then: they would have gone on to rise.")
    print_refusal(refusal)
    print("no rate is sustained" if found is None else f"sustained: {found.rate:.4g} requests/s")
    return Outcome(tried, plot_sweep)


def plan(arguments: argparse.Namespace, config: EngineConfig, longest: int, targets: Targets) -> Outcome:
    """Print what each kind of machine sustains, the cheapest first, and else the best use of its devices. They are
    simulated side by side.

    Args:
        longest: sequence that the model serves, in tokens.
    """
    if arguments.rate == math.inf:
        raise ConfigError("--plan counts machines for a rate: give --rate in requests a second, or leave it out")
    if arguments.machine is not None:
        raise ConfigError(f"--plan compares kinds of machines: give --devices in place of --device {arguments.machine}")
    if config.tensor_parallel_size > 1:
        raise ConfigError("--plan tries each number of devices: leave out --tensor-parallel-size")
    read_traffic(arguments, config, longest)  # refused here, if at all
    devices = [find_device(name) for name in arguments.devices or DEVICES]
    prices = Prices.read(arguments.price, [device.name for device in devices])
    kinds = [(device, size) for device in devices for size in (RANKS if device.is_gpu else (1,))]
    kinds.sort(key=lambda kind: kind[1], reverse=True)  # those of many devices serve the most requests
    options: list[Option] = []
    left_out: dict[str, list[str]] = {}
    flags = argparse.Namespace(**{name: value for name, value in vars(arguments).items() if not callable(value)})
    work = partial(_sustained, flags, config, longest, targets)
    with progress_bar(len(kinds), "machine", "Simulating") as bar:
        for (device, size), found in side_by_side(work, kinds, cores().usable):
            bar.set_postfix_str(f"{size} x {device.name}")
            bar.update()
            if isinstance(found, str):
                left_out.setdefault(found, []).append(f"{size} x {device.name}")
                continue
            options.append(option := Option.of(device.name, size, *found, arguments.rate, prices))
            bar.write(f"{option.name}: {option.rate:.4g} requests/s", file=sys.stderr)
    if not options:
        raise ConfigError("the model fits on none of these devices, or keeps the targets on none: give others, or time")
    options.sort(key=lambda each: each.order)
    print(f"{arguments.shape or config.model}: the highest rate of each machine with {targets.told}")
    _print_options(options, arguments.rate, longest)
    for why, names in left_out.items():
        print(f"Left out, {why}: {', '.join(names)}.")
    return Outcome(options, plot_options)


def _print_options(options: list[Option], wanted: float | None, longest: int) -> None:
    served = f"machines for {wanted:g}/s" if wanted else ""
    print(f"{'machine':>16} {'KV slots':>9} {'requests/s':>11} {'of each device':>15}", end="")
    print(f" {served:>24} {'price/hour':>10} {'price/1000 requests':>20}")
    for each in options:
        print(f"{each.name:>16} {each.num_slots:9,} {each.rate:11.4g} {each.rate_a_device:15.4g}", end="")
        num_devices = (each.replicas or 0) * each.num_devices
        machines = f"{each.replicas} ({num_devices} device{'s' * (num_devices > 1)})" if each.replicas else ""
        hour, thousand = (
            "-" if price is None else f"{price:.{digits}f}"
            for price, digits in ((each.price_hour, 2), (each.price_1000, 4))
        )
        print(f" {machines:>24} {hour:>10} {thousand:>20}")
    print(f"These rates are sustained; {PLAN_RESOLUTION - 1:.0%} more are not (--sweep finds one machine's closer).")
    if any(each.num_slots < longest for each in options):
        print(
            f"Machines with fewer slots than the model length of {longest:,} serve no longer sequences than they hold."
        )


@contextmanager
def _unwarned() -> Iterator[None]:
    """Nothing is said of a pool that is smaller than the model's length: the table does so for all machines; nor again
    of the requests."""
    loggers = [logging.getLogger(module.__name__) for module in (sizing, requests)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _sustained(
    arguments: argparse.Namespace, config: EngineConfig, longest: int, targets: Targets, kind: tuple[Device, int]
) -> tuple[int, float] | str:
    """The slots of so many devices together, and the rate that they sustain; or why they are left out."""
    device, size = kind
    own = replace(config, tensor_parallel_size=size)
    try:
        with _unwarned():
            executor = simulated_executor(own, device)
    except ConfigError:
        return "as the model cannot be held or shared out there"
    with _unwarned():
        traffic = read_traffic(arguments, config, longest)

    def serve(rate: float, gives_up: Callable[[Tally], bool]) -> Tally:
        return simulated(own, executor, 1, traffic(rate), gives_up)

    first = arguments.rate or own_rate(traffic(None)) or 1.0
    rates = sustained_rates(serve, targets, lambda rate: len(traffic(rate)), first, PLAN_RESOLUTION)
    found = best(list(rates))
    return "as no rate keeps the targets" if found is None else (num_slots(executor), found.rate)
