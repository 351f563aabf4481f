"""The flags of `octavo simulate`. What they are for is loaded when it runs."""

import argparse

from octavo.cli.bench.benchmark import add_count_flag
from octavo.evaluation.simulator.devices import DEVICES
from octavo.evaluation.workloads import MEANS

DEFAULT_DEVICE, DEFAULT_DATASET = "a100-40gb", "sharegpt"


def add_machine_flags(parser: argparse.ArgumentParser) -> None:
    """What is simulated."""
    machine = parser.add_argument_group("machine that is simulated")
    machine.add_argument(
        "--device",
        dest="machine",
        metavar="NAME|FILE.json",
        help=f"{', '.join(DEVICES)}, or a file of `octavo calibrate` (default: {DEFAULT_DEVICE})",
    )
    add_count_flag(machine, "--replicas", 1, "such machines, which get requests in turn; figures are of all together")
    machine.add_argument(
        "--for-real", action="store_true", help="serve the same requests on this machine for real, too, and compare"
    )


def add_traffic_flags(parser: argparse.ArgumentParser) -> None:
    """What is served."""
    traffic = parser.add_argument_group("requests")
    add_count_flag(
        traffic,
        "--requests",
        1000,
        "how many; of a trace the first; --sweep and --plan take as many as come in a minute, if that is more, and go "
        "through a trace again for that",
    )
    traffic.add_argument(
        "--trace", metavar="FILE.csv", help="requests with columns arrival_s, prompt_tokens, output_tokens"
    )
    traffic.add_argument(
        "--dataset", choices=sorted(MEANS), help=f"lengths of the paper's (default: {DEFAULT_DATASET})"
    )
    for name, what in (("--prompt-tokens", "prompts"), ("--output-tokens", "outputs")):
        traffic.add_argument(
            name, metavar="MEAN[,DEVIATION]", help=f"tokens of {what} instead, log-normal; all alike without deviation"
        )
    traffic.add_argument(
        "--prefix-tokens", type=int, default=0, metavar="N", help="that all prompts begin with, before their own"
    )
    sequences = traffic.add_mutually_exclusive_group()
    sequences.add_argument("--n", type=int, default=1, metavar="N", help="parallel samples a request (default: 1)")
    sequences.add_argument("--beam-width", type=int, metavar="N", help="search each answer with so many beams")
    traffic.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="requests a second on all replicas together, Poisson; inf is all at once (default: 1; of a trace its own)",
    )
    traffic.add_argument(
        "--length-scale", type=float, default=1.0, metavar="X", help="multiplies a trace's lengths (default: 1)"
    )


def add_highest_flags(parser: argparse.ArgumentParser) -> None:
    """Which rates are looked for."""
    highest = parser.add_argument_group("highest rate")
    ways = highest.add_mutually_exclusive_group()
    ways.add_argument(
        "--sweep",
        action="store_true",
        help="find the highest rate at which latencies keep these targets, from --rate on (takes a minute or so)",
    )
    ways.add_argument(
        "--plan",
        action="store_true",
        help="do so for each kind of machine that the model fits on, and tell how many serve --rate, and at what price "
        "(takes minutes, fewer with fewer --devices)",
    )
    for name, what in (
        ("--max-normalized-latency", "of a request's latency over its output tokens, on average"),
        ("--max-first-token", "until the first token, for nine requests in ten"),
        ("--max-token", "between two tokens of an answer, for nine requests in ten"),
    ):
        highest.add_argument(name, type=float, metavar="S", help=f"seconds {what}")
    highest.add_argument(
        "--devices",
        nargs="+",
        metavar="NAME|FILE.json",
        help=f"that --plan compares (default: {', '.join(DEVICES)})",
    )
    highest.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=P",
        help="of one such device for an hour, for --plan; may be given several times: h100=2.5",
    )
