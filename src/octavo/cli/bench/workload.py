"""The flags that say what a benchmark runs."""

import argparse

from octavo.cli.bench.output import check_positive
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
    group.add_argument("--requests", type=int, default=64, metavar="N", help="how many (default: 64)")
    group.add_argument("--scale", type=float, default=0.5, metavar="X", help="multiplies the lengths (default: 0.5)")
    group.add_argument("--workload-seed", type=int, default=0, metavar="N", help="of lengths and ids (default: 0)")


def read_workload_flags(arguments: argparse.Namespace) -> list[Work]:
    """The work that the flags ask for.

    Raises:
        ConfigError: the file is no workload, or a number is out of its range.
    """
    check_positive(arguments, "requests")
    if arguments.workload:
        return read_workload(arguments.workload)
    if not 0.05 <= arguments.scale <= 4:
        raise ConfigError(f"--scale must be between 0.05 and 4, got {arguments.scale}")
    return draw_workload(arguments.kind, arguments.requests, arguments.scale, arguments.workload_seed)
