"""`octavo bench scheduler`: what planning a step costs."""

import argparse

from octavo.cli.bench.output import add_output_flags, check_output_flags, check_positive, progress, write_figures


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "scheduler",
        help="what planning a step costs",
        description="Microseconds a sequence a step for schedule + update, with greedy one-sequence "
        "requests in decode and no model.",
    )
    parser.add_argument(
        "--sequences",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128, 256, 512, 1024],
        metavar="N",
        help="how many decode at once",
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 8000], metavar="N", help="how long each is")
    add_output_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        ConfigError: a count is below one, or a file cannot be written.
    """
    from octavo.evaluation.scheduler_cost import plot, sweep

    check_positive(arguments, "sequences", "tokens")
    check_output_flags(arguments)
    total = len(arguments.sequences) * len(arguments.tokens)
    costs = list(progress(sweep(arguments.sequences, arguments.tokens), total))
    print(f"{'sequences':>9} {'tokens':>7} {'schedule':>9} {'update':>9} {'total':>9}   µs a sequence a step (medians)")
    for cost in costs:
        print(
            f"{cost.num_sequences:>9} {cost.num_tokens:>7} {cost.schedule_us:>9.2f} {cost.update_us:>9.2f} "
            f"{cost.total_us:>9.2f}"
        )
    write_figures(arguments, costs, plot)
