"""`octavo bench latency`: one stream's time to the first token, and between tokens."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser
from octavo.cli.bench.output import milliseconds, progress_bar
from octavo.config import EngineConfig


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "latency",
        help="one stream's time to the first token, and between tokens",
        description="Run one greedy stream after another. Milliseconds at p50, p90 and p99.",
    )
    add_count_flag(parser, "--input-tokens", [32, 512], "prompt lengths")
    add_count_flag(parser, "--output-tokens", 128, "to generate")
    add_count_flag(parser, "--repeats", 5, "streams a length")
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    from octavo.evaluation.latency import measure, plot
    from octavo.llm import LLM

    with LLM.configured(config) as llm:
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
    return Outcome(figures, plot)
