"""`octavo bench`: measurements of the engine and its parts, as tables, JSON and plots."""

import argparse

from octavo.cli.bench import (
    beams,
    curve,
    kernels,
    latency,
    prefix,
    scheduler,
    serve,
    sharing,
    step,
    swap,
    throughput,
    waste,
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its benchmarks."""
    parser = commands.add_parser(
        "bench",
        help="measure the engine and its parts",
        description="Measure the engine and its parts on this machine.",
    )
    benchmarks = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    for benchmark in (throughput, latency, serve, kernels, curve, step, scheduler, beams, sharing, prefix, swap, waste):
        benchmark.add_parser(benchmarks)
