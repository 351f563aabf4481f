"""`octavo bench`: measurements of the engine's parts, as tables, JSON and plots."""

import argparse
import sys
from pathlib import Path

import msgspec
from tqdm import tqdm

from octavo.errors import ConfigError


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its benchmarks."""
    parser = commands.add_parser(
        "bench", help="measure the engine's parts", description="Measure the engine's parts on this machine."
    )
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    scheduler = benchmarks.add_parser(
        "scheduler",
        help="what planning a step costs",
        description="Microseconds a sequence a step for schedule + update, with greedy one-sequence "
        "requests in decode and no model.",
    )
    scheduler.add_argument(
        "--sequences",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128, 256, 512, 1024],
        metavar="N",
        help="how many decode at once",
    )
    scheduler.add_argument("--tokens", type=int, nargs="+", default=[1000, 8000], metavar="N", help="how long each is")
    scheduler.add_argument("--json", metavar="FILE", help="write the figures here")
    scheduler.add_argument(
        "--plot", metavar="FILE.png", help="draw the figures here (needs matplotlib: pip install 'octavo[bench]')"
    )
    scheduler.set_defaults(run=run_scheduler)


def run_scheduler(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        ConfigError: a count is below one.
    """
    from octavo.evaluation.scheduler_cost import plot, sweep

    if min(arguments.sequences + arguments.tokens) < 1:
        raise ConfigError("--sequences and --tokens must be at least 1")
    for path in filter(None, (arguments.json, arguments.plot)):
        if not Path(path).absolute().parent.is_dir():
            raise ConfigError(f"there is no folder for {path}")
    total = len(arguments.sequences) * len(arguments.tokens)
    costs = list(
        tqdm(sweep(arguments.sequences, arguments.tokens), total=total, desc="Measuring", leave=False, file=sys.stderr)
    )
    print(f"{'sequences':>9} {'tokens':>7} {'schedule':>9} {'update':>9} {'total':>9}   µs a sequence a step (medians)")
    for cost in costs:
        print(
            f"{cost.num_sequences:>9} {cost.num_tokens:>7} {cost.schedule_us:>9.2f} {cost.update_us:>9.2f} "
            f"{cost.total_us:>9.2f}"
        )
    if arguments.json:
        Path(arguments.json).write_bytes(msgspec.json.format(msgspec.json.encode(costs)))
    if arguments.plot:
        plot(costs, arguments.plot)
