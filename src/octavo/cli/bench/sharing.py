"""`octavo bench sharing`: memory saved by sharing blocks among a request's sequences, as in the paper's figure 15."""

import argparse
import itertools

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser, opened_executor
from octavo.cli.bench.output import progress_bar
from octavo.cli.bench.workload import add_scale_flag, add_seed_flag, read_scale_flag
from octavo.config import EngineConfig
from octavo.evaluation.decoding import METHODS, Decoding
from octavo.evaluation.workloads import MEANS, draw_workload


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
    add_count_flag(parser, "--sequences", [2, 4, 6], "a request")
    add_count_flag(parser, "--requests", 32, "at once")
    add_scale_flag(parser, 1.0)
    add_seed_flag(parser)
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    from octavo.evaluation.sharing import measure, plot

    scale, seed = read_scale_flag(arguments), arguments.workload_seed
    works = {kind: draw_workload(kind, arguments.requests, scale, seed) for kind in arguments.kinds}
    cases = list(itertools.product(arguments.kinds, arguments.methods, arguments.sequences))
    num_tokens = sum(num * sum(work.out for work in works[kind]) for kind, _, num in cases)
    figures = []
    with opened_executor(config) as executor, progress_bar(num_tokens, "token") as bar:
        print(f"{'lengths':>9} {'method':>9} {'sequences':>9} {'steps':>6} {'ledger':>8} {'offline':>8} {'paper':>7}")
        for kind, method, num_sequences in cases:
            case = measure(
                executor,
                config,
                works[kind],
                kind=kind,
                decoding=Decoding(method, num_sequences),
                produced=bar.update,
            )
            paper = "-" if case.paper is None else f"{case.paper:.1f}%"
            shares = f"{case.ledger:7.2f}% {case.offline:7.2f}% {paper:>7}"
            print(f"{kind:>9} {method:>9} {num_sequences:>9} {case.steps:>6} {shares}", flush=True)
            figures.append(case)
    return Outcome(figures, plot)
