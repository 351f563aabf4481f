"""`octavo bench sharing`: memory saved by sharing blocks among a request's sequences, as in the paper's figure 15."""

import argparse
import contextlib
import itertools

from octavo.cli.bench.output import (
    add_output_flags,
    check_output_flags,
    check_positive,
    progress_bar,
    write_figures,
)
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.workloads import MEANS, draw_workload

METHODS = ("parallel", "beam")


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "sharing",
        help="memory saved by parallel samples and beams that share blocks (the paper's figure 15)",
        description="Run parallel sampling and beam search on lengths like Alpaca's and ShareGPT's. Tells the share of "
        "blocks saved, averaged over the steps: by the ledger, by a count made from the tokens alone, and the paper's.",
        epilog="example: octavo bench sharing --quantization int8 --json sharing.json --plot sharing.png",
    )
    parser.add_argument("--kinds", nargs="+", choices=sorted(MEANS), default=sorted(MEANS), help="whose lengths")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="how a request's sequences come")
    parser.add_argument(
        "--sequences", type=int, nargs="+", default=[2, 4, 6], metavar="N", help="a request (default: 2 4 6)"
    )
    parser.add_argument("--requests", type=int, default=32, metavar="N", help="at once (default: 32)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="multiplies the lengths (default: 1)")
    parser.add_argument("--workload-seed", type=int, default=0, metavar="N", help="of lengths and ids (default: 0)")
    add_output_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    check_positive(arguments, "sequences", "requests")
    if not 0.05 <= arguments.scale <= 4:
        raise ConfigError(f"--scale must be between 0.05 and 4, got {arguments.scale}")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
    from octavo.evaluation.sharing import measure, plot
    from octavo.execution.launch import executor_class

    works = {
        kind: draw_workload(kind, arguments.requests, arguments.scale, arguments.workload_seed)
        for kind in arguments.kinds
    }
    cases = list(itertools.product(arguments.kinds, arguments.methods, arguments.sequences))
    num_tokens = sum(num * sum(work.out for work in works[kind]) for kind, _, num in cases)
    figures = []
    with contextlib.closing(executor_class(config)(config)) as executor, progress_bar(num_tokens, "token") as bar:
        print(f"{'lengths':>9} {'method':>9} {'sequences':>9} {'steps':>6} {'ledger':>8} {'offline':>8} {'paper':>7}")
        for kind, method, num_sequences in cases:
            case = measure(
                executor,
                works[kind],
                kind=kind,
                method=method,
                num_sequences=num_sequences,
                max_num_seqs=config.max_num_seqs,
                max_num_batched_tokens=config.max_num_batched_tokens,
                produced=bar.update,
            )
            paper = "-" if case.paper is None else f"{case.paper:.1f}%"
            shares = f"{case.ledger:7.2f}% {case.offline:7.2f}% {paper:>7}"
            print(f"{kind:>9} {method:>9} {num_sequences:>9} {case.steps:>6} {shares}", flush=True)
            figures.append(case)
    write_figures(arguments, figures, plot)
