"""`octavo calibrate`: measures this machine's steps, and writes the rates that `octavo simulate` takes."""

import argparse
import math
from pathlib import Path

from octavo.cli.bench.output import check_folder_of, progress_bar
from octavo.cli.flags import add_config_flags, read_config_flags
from octavo.config import EngineConfig
from octavo.errors import ConfigError

SECONDS = 120.0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command."""
    parser = commands.add_parser(
        "calibrate",
        help="measure this machine's steps for `octavo simulate`",
        description="Runs a few minutes of real steps of a model, of many sizes, and finds the rates that tell their "
        "times best: reading weights, products, attention and the rest. Prints how far off they are for steps that "
        "they were not made from, and writes a small file that `octavo simulate --device FILE` takes: on this "
        "machine or another, for this model or others with weights of the same precision.",
        epilog="example: octavo calibrate machine.json --quantization int8",
    )
    parser.add_argument("file", metavar="FILE.json", help="where the rates are written")
    parser.add_argument("--name", help="what the machine is called (default: the file's name)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"of measuring (default: {SECONDS:g})"
    )
    add_config_flags(parser, EngineConfig, speculate="off")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and write.

    Raises:
        OctavoError: a flag or the model is wrong.
    """
    path = Path(arguments.file)
    check_folder_of(arguments.file)
    if not 0 < arguments.seconds < math.inf:
        raise ConfigError(f"--seconds must be over 0 and finite, got {arguments.seconds:g}")
    config = read_config_flags(arguments, EngineConfig)
    if config.tensor_parallel_size > 1:
        raise ConfigError("one process is calibrated: leave --tensor-parallel-size at 1")
    from octavo.cli.bench.benchmark import opened_executor
    from octavo.evaluation.json_figures import as_json
    from octavo.evaluation.simulator.calibration import calibrate
    from octavo.execution.local import LocalExecutor
    from octavo.execution.machine import free_memory_bytes

    memory_bytes = free_memory_bytes()
    with opened_executor(config) as executor, progress_bar(round(arguments.seconds), "s", "Measuring steps") as bar:
        assert isinstance(executor, LocalExecutor)  # of one process
        found = calibrate(
            executor,
            config,
            arguments.name or path.stem,
            memory_bytes=memory_bytes,
            seconds=arguments.seconds,
            seed=config.seed or 0,
            told=lambda seconds: bar.update(round(seconds) - bar.n),
        )
    path.write_bytes(as_json(found.device))
    device = found.device
    print(f"{len(found.steps)} steps; the median error of those held out is {device.error:.1%}")
    [(precision, curve)] = device.products.items()
    least, most = curve[0], curve[-1]
    print(f"10^9 weights in {precision} take {least[1] * 1e3:,.0f} ms for one token, {most[1]:,.1f} s for {most[0]:,}")
    reading, attending = device.context_bytes_s / 1e9, device.attention_ops_s / 1e9
    print(f"contexts are read at {reading:.1f} GB/s and attended at {attending:,.0f} GOP/s")
    print(f"the host takes {device.host_step_s * 1e3:.2f} ms a step and {device.host_row_s * 1e6:.1f} µs a row")
    print(f"{path} is for octavo simulate --device {path}")
