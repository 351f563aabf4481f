"""`octavo bench throughput`: tokens a second on a workload, and of one stream."""

import argparse
import time
from typing import TYPE_CHECKING

import msgspec

from octavo.cli.bench.benchmark import Outcome, finish_engine_parser
from octavo.cli.bench.output import progress_bar
from octavo.cli.bench.workload import add_workload_flags, read_workload_flags
from octavo.config import EngineConfig

if TYPE_CHECKING:
    from octavo.llm import LLM


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "throughput",
        help="tokens a second on a workload, and of one stream",
        description="Run a workload offline, all requests at once and greedily, then one stream alone. Prints one line "
        "of JSON.",
        epilog="example: octavo bench throughput --kind sharegpt --requests 64 --quantization int8",
    )
    add_workload_flags(parser)
    finish_engine_parser(parser, run)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag, the workload or the model is wrong.
    """
    work = read_workload_flags(arguments)
    start_s = time.perf_counter()
    from octavo.evaluation.throughput import measure, num_output_tokens, plot
    from octavo.llm import LLM

    with LLM.configured(config) as llm, progress_bar(num_output_tokens(work), "token") as bar:
        load_s = time.perf_counter() - start_s
        figures, moments = measure(llm, work, precision=_precision(llm), load_s=load_s, produced=bar.update)
    print(msgspec.json.encode(figures).decode())
    return Outcome(figures, lambda drawn, path: plot(drawn, moments, path))


def _precision(llm: "LLM") -> str:
    """Of the products' weights, in the words that peers use."""
    return llm.loaded.weights or {"bfloat16": "bf16", "float16": "fp16", "float32": "f32"}[llm.loaded.dtype]
