"""`octavo bench beams`: beam search in the engine, against sending every beam anew at every step."""

import argparse
import dataclasses

from octavo.cli.bench.output import add_json_flag, check_output_flags, check_positive, progress_bar, write_figures
from octavo.cli.flags import add_config_flags, read_config_flags
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
    parser.add_argument("--prompts", type=int, default=32, metavar="N", help="at once (default: 32)")
    parser.add_argument(
        "--kind", choices=sorted(MEANS), default="alpaca", help="prompt lengths as in this data set (default: alpaca)"
    )
    parser.add_argument("--beam-width", type=int, default=4, metavar="N", help="beams a prompt (default: 4)")
    parser.add_argument("--output-tokens", type=int, default=64, metavar="N", help="to generate (default: 64)")
    parser.add_argument("--workload-seed", type=int, default=0, metavar="N", help="of lengths and ids (default: 0)")
    add_json_flag(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    check_positive(arguments, "prompts", "beam_width", "output_tokens")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
    from octavo.evaluation.beams import measure
    from octavo.llm import LLM

    prompts = [work.ids for work in draw_workload(arguments.kind, arguments.prompts, 1.0, arguments.workload_seed)]
    with LLM(**dataclasses.asdict(config)) as llm:
        measure(llm.engine, prompts[:2], arguments.beam_width, 2)
        with progress_bar(arguments.output_tokens, "token") as bar:
            figures = measure(llm.engine, prompts, arguments.beam_width, arguments.output_tokens, bar.update)
    print(f"{'forked beams':>14} {'sent anew':>11} {'speedup':>8} {'equal hypotheses':>17}")
    equal = f"{figures.prompts_with_equal_hypotheses} of {figures.prompts}"
    print(f"{figures.engine_s:12.2f} s {figures.resubmitted_s:9.2f} s {figures.speedup:7.1f}x {equal:>17}")
    write_figures(arguments, figures)
