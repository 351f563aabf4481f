"""`octavo bench scheduler`: what planning a step costs."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_parser
from octavo.cli.bench.output import progress
from octavo.layer_groups import MAX_GROUPS


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "scheduler",
        help="what planning a step costs",
        description="Microseconds a sequence a step for schedule + update, with greedy one-sequence "
        "requests in decode and no model.",
    )
    add_count_flag(parser, "--sequences", [16, 32, 64, 128, 256, 512, 1024], "how many decode at once", shown="")
    add_count_flag(parser, "--tokens", [1000, 8000], "how long each is", shown="")
    parser.add_argument(
        "--layer-groups",
        type=int,
        choices=range(1, MAX_GROUPS + 1),
        default=1,
        metavar="N",
        help="of the model: one that needs every token, the others windows of 512 tokens, as Gemma 3 has six "
        "(default: %(default)s)",
    )
    finish_parser(parser, run)


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure and print."""
    from octavo.evaluation.scheduler_cost import plot, sweep

    total = len(arguments.sequences) * len(arguments.tokens)
    costs = list(progress(sweep(arguments.sequences, arguments.tokens, arguments.layer_groups), total))
    print(f"{'sequences':>9} {'tokens':>7} {'schedule':>9} {'update':>9} {'total':>9}   µs a sequence a step (medians)")
    for cost in costs:
        print(
            f"{cost.num_sequences:>9} {cost.num_tokens:>7} {cost.schedule_us:>9.2f} {cost.update_us:>9.2f} "
            f"{cost.total_us:>9.2f}"
        )
    return Outcome(costs, plot)
