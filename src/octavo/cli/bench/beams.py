"""`octavo bench beams`: beam search in the engine, against sending every beam anew at every step."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser
from octavo.cli.bench.output import progress_bar
from octavo.cli.bench.workload import add_seed_flag
from octavo.config import EngineConfig
from octavo.evaluation.workloads import MEANS, draw_workload


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "beams",
        help="beam search in the engine, against a request for every beam at every step",
        description="Search twice for the same hypotheses through one engine: with forked beams, and by sending every "
        "beam anew as a one-token request at every step.",
        epilog="example: octavo bench beams --prompts 32 --beam-width 4 --output-tokens 64 --quantization int8",
    )
    add_count_flag(parser, "--prompts", 32, "at once")
    parser.add_argument(
        "--kind", choices=sorted(MEANS), default="alpaca", help="prompt lengths as in this data set (default: alpaca)"
    )
    add_count_flag(parser, "--beam-width", 4, "beams a prompt")
    add_count_flag(parser, "--output-tokens", 64, "to generate")
    add_seed_flag(parser)
    finish_engine_parser(parser, run, plots=False)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    from octavo.evaluation.beams import measure
    from octavo.llm import LLM

    prompts = [work.ids for work in draw_workload(arguments.kind, arguments.prompts, 1.0, arguments.workload_seed)]
    with LLM.configured(config) as llm:
        measure(llm.engine, prompts[:2], arguments.beam_width, 2)
        with progress_bar(arguments.output_tokens, "token") as bar:
            figures = measure(llm.engine, prompts, arguments.beam_width, arguments.output_tokens, bar.update)
    print(f"{'forked beams':>14} {'sent anew':>11} {'speedup':>8} {'equal hypotheses':>17}")
    equal = f"{figures.prompts_with_equal_hypotheses} of {figures.prompts}"
    print(f"{figures.engine_s:12.2f} s {figures.resubmitted_s:9.2f} s {figures.speedup:7.1f}x {equal:>17}")
    return Outcome(figures)
