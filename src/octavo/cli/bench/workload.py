"""The flags that say which requests a benchmark runs."""

import argparse

from octavo.cli.bench.benchmark import add_count_flag
from octavo.errors import ConfigError
from octavo.evaluation.workloads import MEANS, Work, draw_workload, read_workload


def add_workload_flags(parser: argparse.ArgumentParser) -> None:
    """A file, or a kind, a number and a scale."""
    group = parser.add_argument_group("workload")
    group.add_argument(
        "--workload", metavar="FILE", help='JSON list of {"ids": [...], "out": n}; instead of the flags below'
    )
    group.add_argument(
        "--kind", choices=sorted(MEANS), default="sharegpt", help="lengths as in this data set (default: sharegpt)"
    )
    add_count_flag(group, "--requests", 64, "how many")
    add_scale_flag(group, 0.5)
    add_seed_flag(group)


def add_scale_flag(flags: argparse.ArgumentParser | argparse._ArgumentGroup, default: float) -> None:
    """`--scale`."""
    shown = f"multiplies the lengths (default: {default:g})"
    flags.add_argument("--scale", type=float, default=default, metavar="X", help=shown)


def add_seed_flag(flags: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """`--workload-seed`."""
    flags.add_argument("--workload-seed", type=int, default=0, metavar="N", help="of lengths and ids (default: 0)")


def read_scale_flag(arguments: argparse.Namespace) -> float:
    """The scale that the flag asks for.

    Raises:
        ConfigError: it is out of its range.
    """
    scale: float = arguments.scale
    if not 0.05 <= scale <= 4:
        raise ConfigError(f"--scale must be between 0.05 and 4, got {scale}")
    return scale


def read_workload_flags(arguments: argparse.Namespace) -> list[Work]:
    """The work that the flags ask for.

    Raises:
        ConfigError: the file is no workload, or a number is out of its range.
    """
    if arguments.workload:
        return read_workload(arguments.workload)
    return draw_workload(arguments.kind, arguments.requests, read_scale_flag(arguments), arguments.workload_seed)
