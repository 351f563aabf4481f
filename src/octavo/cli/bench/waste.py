"""`octavo bench waste`: what of the KV memory holds token states, under each way to allocate it."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_parser
from octavo.cli.bench.output import progress


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "waste",
        help="what of the KV memory holds token states, paged and reserved",
        description="Percent of the KV memory that holds token states, and the paper's three kinds of waste, while "
        "requests wait for memory: paged, and with the paper's contiguous baselines (figure 2). The scheduler and the "
        "memory managers are those that serve requests; no model runs.",
    )
    parser.add_argument(
        "--kind", choices=("sharegpt", "alpaca"), default="sharegpt", help="lengths (default: sharegpt)"
    )
    add_count_flag(parser, "--requests", 256, "how many requests, all there from the start")
    add_count_flag(parser, "--slots", 15_700, "token slots of the KV memory; OPT-13B leaves as many on an A100-40GB")
    add_count_flag(parser, "--block-size", 16, "token slots in a KV block")
    add_count_flag(parser, "--max-num-batched-tokens", 2048, "tokens computed in one step")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the lengths (default: 0)")
    finish_parser(parser, run)


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure and print."""
    from octavo.evaluation.waste import ALLOCATIONS, measure, plot
    from octavo.evaluation.workloads import draw_workload

    work = draw_workload(arguments.kind, arguments.requests, 1.0, arguments.seed)
    steps = measure(work, arguments.slots, arguments.block_size, arguments.max_num_batched_tokens)
    measured = list(progress(steps, len(ALLOCATIONS)))
    columns = f"{'states':>7} {'paper':>6} {'reserved':>9} {'internal':>9} {'external':>9} {'running':>8}"
    print(f"{'% of the KV memory':<18} {columns}")
    for each in measured:
        print(
            f"{each.allocation:<18} {each.token_states:>7.1%} {each.paper_percent:>6} {each.reserved:>9.1%} "
            f"{each.internal:>9.1%} {each.external:>9.1%} {each.mean_running:>8.1f}"
        )
    return Outcome(measured, plot)
