"""`octavo bench swap`: a preemption by swap beside one by recompute."""

import argparse

from octavo.cli.bench.output import add_output_flags, check_output_flags, check_positive, progress, write_figures
from octavo.cli.flags import add_config_flags, read_config_flags
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
    parser.add_argument(
        "--block-sizes",
        type=int,
        nargs="+",
        default=[1, 2, 4, 8, 16, 32, 64, 128, 256],
        metavar="N",
        help="block sizes to try, in place of --block-size (default: 1 to 256)",
    )
    parser.add_argument("--tokens", type=int, default=256, metavar="N", help="of the sequence (default: 256)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="times to measure (default: 10)")
    add_output_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong, or the sequence does not fit.
    """
    check_positive(arguments, "block_sizes", "tokens", "repeats")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
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
    write_figures(arguments, costs, plot)
