"""`octavo simulate`: how a model on a machine would serve requests, by the scheduler and memory that serve them."""

import argparse

from octavo.cli.bench.benchmark import Outcome, finish_engine_parser
from octavo.cli.simulate.flags import DEFAULT_DEVICE, add_highest_flags, add_machine_flags, add_traffic_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError

KNOBS = (
    "model",
    "revision",
    "gguf_file",
    "download_dir",
    "offline",
    "load_format",
    "dtype",
    "quantization",
    "max_model_len",
    "seed",
    "block_size",
    "kv_cache_memory",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "prefix_cache_scope",
    "swap_space",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_allocation",
    "steps_in_flight",
    "scheduling_policy",
    "overtaking_time",
    "preemption_mode",
    "cuda_graphs",
    "tensor_parallel_size",
    "num_threads",
)
"""Those that change who runs when, or how long a step takes."""
DESCRIPTION = (
    "How a model on a machine would serve requests: throughput, latencies, batches, what the memory holds. Only the "
    "steps' times are reckoned, from their operations and bytes; who runs, waits, is preempted and shares blocks is "
    "decided by the very scheduler and memory manager that serve requests, with the same flags."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "simulate",
        help="how a model on a machine would serve requests",
        description=DESCRIPTION,
        epilog="examples: octavo simulate --shape opt-13b --device a100-40gb --dataset sharegpt --rate 2; "
        "octavo calibrate here.json --quantization int8 && octavo simulate --device here.json --quantization int8 "
        "--trace requests.csv --for-real",
    )
    add_machine_flags(parser)
    add_traffic_flags(parser)
    add_highest_flags(parser)
    finish_engine_parser(parser, run, *KNOBS)


def run(arguments: argparse.Namespace, config: EngineConfig) -> Outcome:
    """Simulate, measure where asked for, and print.

    Raises:
        OctavoError: a flag is wrong, or the model does not fit on the machine.
    """
    from octavo.cli.simulate.highest import plan, read_targets, sweep
    from octavo.cli.simulate.serving import serve_once
    from octavo.cli.simulate.tables import print_machine
    from octavo.cli.simulate.traffic import read_traffic
    from octavo.evaluation.simulator.devices import find_device
    from octavo.evaluation.simulator.machine import longest_of, simulated_executor

    targets = read_targets(arguments)
    if arguments.replicas > 1 and (arguments.for_real or arguments.plan):
        raise ConfigError(
            "--for-real serves on this machine alone, and --plan finds the replicas: leave out --replicas"
        )
    longest = longest_of(config)
    if targets is not None and arguments.plan:
        return plan(arguments, config, longest, targets)
    traffic = read_traffic(arguments, config, longest)
    name = arguments.machine or DEFAULT_DEVICE
    executor = simulated_executor(config, find_device(name))
    print_machine(name, arguments.replicas, executor)
    if targets is None:
        return serve_once(arguments, config, executor, traffic(arguments.rate))
    return sweep(arguments, config, executor, traffic, targets)
