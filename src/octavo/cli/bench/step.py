"""`octavo bench step`: where a step's time goes."""

import argparse

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser, opened_executor
from octavo.cli.bench.output import progress
from octavo.cli.flags import add_sampling_flags, given_sampling, sampling_params
from octavo.config import EngineConfig
from octavo.sampling_params import SamplingParams

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "step",
        help="where a step's time goes",
        description="Milliseconds a step of decode: schedule, prepare, forward by kernel, logits, sample, update.",
        epilog="example: octavo bench step --sequences 1 16 64 --context 256 --quantization int8",
    )
    add_count_flag(parser, "--sequences", [1, 16, 64], "batch sizes")
    add_count_flag(parser, "--context", [256], "tokens each")
    add_count_flag(parser, "--steps", 50, "steps to average over")
    add_sampling_flags(parser, *SAMPLING, note="Where none of these is given, rows are greedy.")
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong, or the sequences do not fit.
    """
    from octavo.engine.engine import Engine
    from octavo.evaluation.step_times import measure, plot

    params = sampling_params(arguments) if given_sampling(arguments) else SamplingParams(temperature=0)
    cases = [(count, context) for context in arguments.context for count in arguments.sequences]
    with opened_executor(config) as executor:
        engine = Engine.configured(executor, config)
        measured = [measure(engine, *case, arguments.steps, params) for case in progress(cases, len(cases))]
    parts = list(measured[0].parts_ms)
    kernels = list(measured[0].kernels_ms)
    print("ms a step".ljust(12) + "".join(f"{t.sequences} x {t.context}".rjust(13) for t in measured))
    for part in parts:
        print(part.ljust(12) + "".join(f"{t.parts_ms[part]:13.3f}" for t in measured))
        if part == "forward":
            for kernel in kernels:
                print(f"  {kernel}".ljust(12) + "".join(f"{t.kernels_ms[kernel]:13.3f}" for t in measured))
    print("total".ljust(12) + "".join(f"{t.total_ms:13.3f}" for t in measured))
    print("tokens/s".ljust(12) + "".join(f"{t.sequences / t.total_ms * 1e3:13.1f}" for t in measured))
    return Outcome(measured, plot)
