"""`octavo bench prefix`: throughput of requests behind a shared prefix, as in the paper's figure 16."""

import argparse
import contextlib

from octavo.cli.bench.output import add_output_flags, check_output_flags, check_positive, progress_bar, write_figures
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.evaluation.workloads import draw_workload


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "prefix",
        help="throughput behind a shared prefix, with and without sharing it (the paper's figure 16)",
        description="Run Alpaca-like requests that all begin with one prefix, the prefix cache on and off in turn, "
        "and tell output tokens/s of both beside the paper's gain.",
        epilog="example: octavo bench prefix --prefix-tokens 80 341 --quantization int8",
    )
    parser.add_argument(
        "--prefix-tokens", type=int, nargs="+", default=[80, 341], metavar="N", help="shared (default: 80 341)"
    )
    parser.add_argument("--requests", type=int, default=64, metavar="N", help="at once (default: 64)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="with other ids each (default: 3)")
    parser.add_argument("--workload-seed", type=int, default=0, metavar="N", help="of lengths and ids (default: 0)")
    add_output_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong, or a request does not fit.
    """
    check_positive(arguments, "prefix_tokens", "requests", "rounds")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
    from octavo.evaluation.shared_prefix import measure, plot
    from octavo.execution.launch import executor_class

    work = draw_workload("alpaca", arguments.requests, 1.0, arguments.workload_seed)
    figures = []
    total = 2 * arguments.rounds * len(arguments.prefix_tokens) * sum(each.out for each in work)
    with contextlib.closing(executor_class(config)(config)) as executor, progress_bar(total, "token") as bar:
        print(
            f"{'prefix':>7} {'shared tok/s':>13} {'unshared tok/s':>15} {'gain':>6} {'paper':>6} {'tokens cached':>14}"
        )
        for prefix_tokens in arguments.prefix_tokens:
            each = measure(
                executor,
                work,
                prefix_tokens=prefix_tokens,
                rounds=arguments.rounds,
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                produced=bar.update,
            )
            paper = "-" if each.paper is None else f"{each.paper:.2f}"
            rates = f"{each.shared_tok_s:13.1f} {each.unshared_tok_s:15.1f} {each.gain:6.2f}"
            print(f"{prefix_tokens:>7} {rates} {paper:>6} {each.cached_tokens:14}", flush=True)
            figures.append(each)
    write_figures(arguments, figures, plot)
