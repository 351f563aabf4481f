"""`octavo bench step`: where a step's time goes."""

import argparse

from octavo.cli.bench.output import add_output_flags, check_output_flags, check_positive, progress, write_figures
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "step",
        help="where a step's time goes",
        description="Milliseconds a step of decode: schedule, prepare, forward by kernel, logits, sample, update.",
        epilog="example: octavo bench step --sequences 1 16 64 --context 256 --quantization int8",
    )
    parser.add_argument(
        "--sequences", type=int, nargs="+", default=[1, 16, 64], metavar="N", help="batch sizes (default: 1 16 64)"
    )
    parser.add_argument("--context", type=int, nargs="+", default=[256], metavar="N", help="tokens each (default: 256)")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps to average over (default: 50)")
    add_output_flags(parser)
    add_config_flags(parser, EngineConfig)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write what was asked for.

    Raises:
        OctavoError: a flag or the model is wrong, or the sequences do not fit.
    """
    check_positive(arguments, "sequences", "context", "steps")
    check_output_flags(arguments)
    config = read_config_flags(arguments, EngineConfig)
    from octavo.evaluation.step_times import load, measure, plot

    engine, executor = load(config)
    cases = [(count, context) for context in arguments.context for count in arguments.sequences]
    measured = [measure(engine, executor, *case, arguments.steps) for case in progress(cases, len(cases))]
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
    write_figures(arguments, measured, plot)
