"""`octavo bench prefix`: throughput of requests behind a shared prefix, as in the paper's figure 16."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser, opened_executor
from octavo.cli.bench.output import progress_bar
from octavo.cli.bench.workload import add_seed_flag
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
    add_count_flag(parser, "--prefix-tokens", [80, 341], "shared")
    add_count_flag(parser, "--requests", 64, "at once")
    add_count_flag(parser, "--rounds", 3, "with other ids each")
    add_seed_flag(parser)
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong, or a request does not fit.
    """
    from octavo.evaluation.shared_prefix import measure, plot

    work = draw_workload("alpaca", arguments.requests, 1.0, arguments.workload_seed)
    figures = []
    total = 2 * arguments.rounds * len(arguments.prefix_tokens) * sum(each.out for each in work)
    with opened_executor(config) as executor, progress_bar(total, "token") as bar:
        print(
            f"{'prefix':>7} {'shared tok/s':>13} {'unshared tok/s':>15} {'gain':>6} {'paper':>6} {'tokens cached':>14}"
        )
        for prefix_tokens in arguments.prefix_tokens:
            each = measure(
                executor,
                config,
                work,
                prefix_tokens=prefix_tokens,
                rounds=arguments.rounds,
                produced=bar.update,
            )
            paper = "-" if each.paper is None else f"{each.paper:.2f}"
            rates = f"{each.shared_tok_s:13.1f} {each.unshared_tok_s:15.1f} {each.gain:6.2f}"
            print(f"{prefix_tokens:>7} {rates} {paper:>6} {each.cached_tokens:14}", flush=True)
            figures.append(each)
    return Outcome(figures, plot)
