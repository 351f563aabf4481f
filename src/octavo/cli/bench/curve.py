"""`octavo bench curve`: tokens a second against batch and context, beside the limit of the machine."""

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser
from octavo.cli.bench.output import progress_bar
from octavo.config import EngineConfig
from octavo.errors import ConfigError

if TYPE_CHECKING:
    from octavo.evaluation.cost_curve import CurvePoint


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "curve",
        help="decode's tokens/s against batch and context, beside the machine's limit",
        description="Tokens/s of whole steps of greedy decode, over batches and contexts, beside the limit: the time "
        "that weights, KV and logits take at the measured rate of memory, or the operations at that of products. "
        "Prompts are not computed: blocks are allocated, and hold made-up numbers. What does not fit is left out.",
        epilog="example: octavo bench curve --quantization int8 --kv-cache-memory 80% --plot curve.png".replace(
            "%", "%%"
        ),
    )
    batches, contexts = [1, 2, 4, 8, 16, 32, 64, 128, 256], [128, 256, 512, 1024, 2048, 4096, 8192]
    add_count_flag(parser, "--batch", batches, "sequences")
    add_count_flag(parser, "--context", contexts, "tokens of each")
    add_count_flag(parser, "--steps", 10, "steps, for their median")
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong, or nothing fits.
    """
    from octavo.evaluation.cost_curve import Curve, CurveBench, plot
    from octavo.evaluation.machine_limits import NUM_MEASUREMENTS, Drift, measure_limits

    bench = CurveBench(config, arguments.steps)
    grid = [(batch, context) for batch in sorted(set(arguments.batch)) for context in sorted(set(arguments.context))]
    cells = [cell for cell in grid if bench.fits(*cell)]
    if not cells:
        raise ConfigError("nothing fits: raise --kv-cache-memory, or lower --batch or --context")
    if len(cells) < len(grid):
        left_out = len(grid) - len(cells)
        print(f"{left_out} of {len(grid)} do not fit the model's length or --kv-cache-memory", file=sys.stderr)
    with contextlib.closing(bench.executor), progress_bar(NUM_MEASUREMENTS + len(cells), "figure") as bar:
        limits = measure_limits(config.kernels, bar.update)
        drift = Drift(config.kernels)
        points = []
        for cell in cells:
            points.append(bench.point(*cell, limits, drift))
            bar.update()
    _print_table(points)
    curve = Curve(limits=limits, cost=bench.cost, points=points)
    return Outcome(curve, plot)


def _print_table(points: "list[CurvePoint]") -> None:
    contexts = sorted({point.context for point in points})
    by_cell = {(point.batch, point.context): point for point in points}
    print("tokens/s (share of the limit; m: memory's, p: products')")
    print("sequences".rjust(9) + "".join(f"{context:>9,} tokens" for context in contexts))
    for batch in sorted({point.batch for point in points}):
        cells = [_cell(by_cell.get((batch, context))) for context in contexts]
        print(f"{batch:>9}" + "".join(cell.rjust(16) for cell in cells))


def _cell(point: "CurvePoint | None") -> str:
    if point is None:
        return "-"
    share = point.tokens_a_second / point.limit_tokens_a_second
    return f"{point.tokens_a_second:.1f} ({share:.0%} {point.waits_for[0]})"
