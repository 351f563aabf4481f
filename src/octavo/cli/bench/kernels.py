"""`octavo bench kernels`: each kernel alone, beside what the machine could do."""

import argparse
from typing import TYPE_CHECKING

from tqdm import tqdm

from octavo.cli.bench.benchmark import Outcome, add_count_flag, finish_engine_parser
from octavo.cli.bench.output import progress_bar
from octavo.config import EngineConfig
from octavo.evaluation.kernel_names import KINDS, PRECISIONS, WEIGHT_PRECISIONS

if TYPE_CHECKING:
    from octavo.evaluation.kernel_rates import KernelRate
    from octavo.evaluation.machine_limits import MachineLimits


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "kernels",
        help="each kernel alone, beside what the machine could do",
        description="GB/s and GOP/s of each kernel on the model's shapes, with made-up weights, and how much "
        "that is of the machine's limit: the time that memory or products need at the rates measured in the same run.",
        epilog="example: octavo bench kernels --only decode prefill --kv-precision bfloat16 --plot kernels.png",
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="kernels (default: all)")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=WEIGHT_PRECISIONS,
        default=list(WEIGHT_PRECISIONS),
        help="of weights, int4 in groups of 32 (default: all)",
    )
    parser.add_argument(
        "--kv-precision", nargs="+", choices=PRECISIONS, default=["bfloat16", "int8"], help="default: bfloat16 int8"
    )
    rows = [1, 4, 8, 16, 64, 256]
    add_count_flag(parser, "--rows", rows, "tokens in a step of products, logits, norms and activations")
    add_count_flag(parser, "--sequences", [1, 64], "that decode at once")
    add_count_flag(parser, "--context", [128, 2048], "tokens of each of them")
    add_count_flag(parser, "--prefill", [2048], "tokens of a prompt")
    of_model = ("model", "revision", "gguf_file", "download_dir", "offline")
    finish_engine_parser(parser, run, *of_model, "block_size", "kernels", "num_threads")


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the model is wrong, or the KV asked for does not fit.
    """
    import torch

    from octavo.checkpoints.locate import locate
    from octavo.checkpoints.resolve import resolve_model
    from octavo.evaluation.kernel_cases import KernelWork, count_cases
    from octavo.evaluation.kernel_rates import KernelFigures, measure_kernels, plot
    from octavo.evaluation.machine_limits import NUM_MEASUREMENTS, measure_limits
    from octavo.models.loader import read_config

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    work = KernelWork(
        model=read_config(locate(resolve_model(config, weights=False).model)),
        backend=config.kernels,
        block_size=config.block_size,
        kinds=tuple(arguments.only),
        precisions=tuple(arguments.precision),
        rows=tuple(arguments.rows),
        kv_precisions=tuple(arguments.kv_precision),
        sequences=tuple(arguments.sequences),
        contexts=tuple(arguments.context),
        prefill=tuple(arguments.prefill),
    )
    work.check()
    rates = []
    with progress_bar(NUM_MEASUREMENTS + count_cases(work), "figure") as bar:
        limits = measure_limits(config.kernels, bar.update)
        _print_limits(limits)
        for rate in measure_kernels(work, limits):
            bar.update()
            rates.append(rate)
            _print_rate(rate)
    figures = KernelFigures(limits=limits, kernels=rates)
    return Outcome(figures, plot)


def _print_limits(limits: "MachineLimits") -> None:
    tqdm.write(f"limits of this machine with {limits.num_threads} threads: memory read {limits.read_gb_s:.1f} GB/s")
    for precision, measured in limits.product_gop_s.items():
        each = ", ".join(f"{whose} {rate:.1f}" for whose, rate in measured.items())
        tqdm.write(f"  products in {precision:8} {limits.product_rate(precision):8.1f} GOP/s   (measured: {each})")
    header = (
        f"{'kernel':10} {'shape':32} {'precision':9} {'rows':>5} {'µs':>10} {'GB/s':>8} {'GOP/s':>8} {'of limit':>9}"
    )
    tqdm.write(f"{header}  which, as measured beside it")


def _print_rate(rate: "KernelRate") -> None:
    operations = f"{rate.gop_s:8.1f}" if rate.gop_s else f"{'-':>8}"
    tqdm.write(
        f"{rate.kind:10} {rate.shape:32} {rate.precision:9} {rate.rows:>5} {rate.microseconds:10.1f} {rate.gb_s:8.2f} "
        f"{operations} {rate.share_of_limit:9.0%}  {rate.waits_for} "
        f"({rate.read_gb_s:.1f} GB/s, float32 {rate.float32_gop_s:.0f} GOP/s)",
    )
