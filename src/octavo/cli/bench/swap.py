"""`octavo bench swap`: a preemption by swap beside one by recompute."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser
from octavo.cli.bench.output import progress
from octavo.config import EngineConfig


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "swap",
        help="a preemption by swap beside one by recompute",
        description="Milliseconds to compute a sequence again, and to move its blocks to the swap space and back, for "
        "each block size (the paper's figure 19).",
        epilog="example: octavo bench swap --quantization int8 --plot swap.png",
    )
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    add_count_flag(parser, "--block-sizes", sizes, "block sizes to try, in place of --block-size", shown="1 to 256")
    add_count_flag(parser, "--tokens", 256, "of the sequence")
    add_count_flag(parser, "--repeats", 10, "times to measure")
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong, or the sequence does not fit.
    """
    from octavo.evaluation.swap_cost import measure, plot

    sizes = arguments.block_sizes
    costs = list(progress(measure(config, sizes, arguments.tokens, arguments.repeats), len(sizes)))
    print(f"ms for {arguments.tokens} tokens (medians of {arguments.repeats})")
    print(f"{'block size':>10} {'blocks':>7} {'recompute':>10} {'swap out':>9} {'swap in':>9} {'both':>9}")
    for cost in costs:
        print(
            f"{cost.block_size:>10} {cost.num_blocks:>7} {cost.recompute_ms:>10.2f} {cost.swap_out_ms:>9.3f} "
            f"{cost.swap_in_ms:>9.3f} {cost.swap_ms:>9.3f}"
        )
    return Outcome(costs, plot)
