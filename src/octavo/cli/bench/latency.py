"""`octavo bench latency`: one stream's time to the first token, and between tokens."""

import argparse
import dataclasses

from octavo.cli.bench.output import (
    add_output_flags,
    check_output_flags,
    check_positive,
    milliseconds,
    progress_bar,
    write_figures,
)
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "latency",
        help="one stream's time to the first token, and between tokens",
        description="Run one greedy stream after another. Milliseconds at p50, p90 and p99.",
    )
    parser.add_argument(
        "--input-tokens", type=int, nargs="+", default=[32, 512], metavar="N", help="prompt lengths (default: 32 512)"
    )
    parser.add_argument("--output-tokens", type=int, default=128, metavar="N", help="to generate (default: 128)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="streams a length (default: 5)")
    add_output_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    check_positive(arguments, "input_tokens", "output_tokens", "repeats")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
    from octavo.evaluation.latency import measure, plot
    from octavo.llm import LLM

    with LLM(**dataclasses.asdict(config)) as llm:
        measure(llm, 16, 8, 1)
        with progress_bar(len(arguments.input_tokens) * arguments.repeats, "stream") as bar:
            figures = [
                measure(llm, length, arguments.output_tokens, arguments.repeats, bar.update)
                for length in arguments.input_tokens
            ]
    print(f"{'prompt':>7} {'first token, ms':>27} {'between tokens, ms':>27} {'tokens/s':>9}")
    print(f"{'':>7} {'p50':>9}{'p90':>9}{'p99':>9} {'p50':>9}{'p90':>9}{'p99':>9}")
    for case in figures:
        columns = f"{milliseconds(case.first_token_ms)} {milliseconds(case.between_tokens_ms)}"
        print(f"{case.input_tokens:>7} {columns} {case.tokens_a_second:9.1f}")
    write_figures(arguments, figures, plot)
