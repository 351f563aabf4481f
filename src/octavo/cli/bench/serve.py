"""`octavo bench serve`: latency of a running server at request rates."""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from octavo.cli.bench.benchmark import Outcome, finish_parser
from octavo.cli.bench.output import milliseconds, progress_bar
from octavo.cli.bench.workload import add_workload_flags, read_workload_flags
from octavo.errors import ConfigError, EngineError
from octavo.evaluation.workloads import Work, repeated
from octavo.knobs import flag

if TYPE_CHECKING:
    from octavo.evaluation.serve_load import LoadFigures

WARM_UP_REQUESTS, WARM_UP_OUTPUT, WARM_UP_GAP_S = 2, 8, 0.1


def add_parser(benchmarks: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the benchmark."""
    parser = benchmarks.add_parser(
        "serve",
        help="latency of a running server at request rates",
        description="Send greedy streams to a server in OpenAI's format, at Poisson arrivals that don't wait for "
        "answers. Normalized latency is the mean of each request's end-to-end latency over its output tokens.",
        epilog="example: octavo bench serve --request-rate 0.5 1 2 4 --duration 60 --plot latency.png",
    )
    parser.add_argument(
        "--base-url",
        default="http://127.0.0.1:8000/v1",
        metavar="URL",
        help="of the server (default: http://127.0.0.1:8000/v1)",
    )
    parser.add_argument("--api-key", metavar="KEY", help="that the server asks for")
    parser.add_argument(
        "--request-rate",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="X",
        help="requests a second, one after another (default: 1)",
    )
    parser.add_argument(
        "--duration", type=float, metavar="SECONDS", help="send as many requests as arrive in it, not --requests"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the arrivals (default: 0)")
    add_workload_flags(parser)
    finish_parser(parser, run)


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure and print.

    Raises:
        OctavoError: a flag or the workload is wrong, or the server answered nothing.
    """
    counts = _counts(arguments)
    work = read_workload_flags(arguments)
    from octavo.evaluation.serve_load import Server, apply_load, plot

    server = Server(arguments.base_url, arguments.api_key)
    num_repeats = 1 + len(counts)
    warm_up = [Work(w.ids, WARM_UP_OUTPUT) for w in repeated(work, WARM_UP_REQUESTS, 0, num_repeats)]
    _check(apply_load(server, warm_up, 1.0 / WARM_UP_GAP_S, arguments.seed))
    figures = []
    _print_header()
    for repeat, (rate, count) in enumerate(zip(arguments.request_rate, counts, strict=True), start=1):
        with progress_bar(count, "request", f"{rate:g} requests/s") as bar:
            requests = repeated(work, count, repeat, num_repeats)
            figures.append(apply_load(server, requests, rate, arguments.seed, bar.update))
        _print_row(figures[-1])
    return Outcome(figures, plot)


def _counts(arguments: argparse.Namespace) -> list[int]:
    """Requests to send at each rate.

    Raises:
        ConfigError: a rate or the duration is not above zero.
    """
    for name, values in (("request_rate", arguments.request_rate), ("duration", [arguments.duration or 1.0])):
        if not 0 < min(values) <= max(values) < math.inf:
            raise ConfigError(f"{flag(name)} must be above 0")
    if arguments.duration is None:
        return [arguments.requests] * len(arguments.request_rate)
    return [max(1, round(rate * arguments.duration)) for rate in arguments.request_rate]


def _check(warm_up: "LoadFigures") -> None:
    """A server that cannot answer is not worth a measurement.

    Raises:
        EngineError: it answered nothing; the message is the server's.
    """
    if warm_up.failed:
        raise EngineError(f"the server refuses the first requests: {'; '.join(warm_up.errors)}")


def _print_header() -> None:
    percentiles = f"{'p50':>9}{'p90':>9}{'p99':>9}"
    print(
        f"{'requests/s':>10} {'answered':>11} {'tokens/s':>9} {'normalized':>10} "
        f"{'first token, ms':>27} {'between tokens, ms':>27}"
    )
    print(f"{'':>10} {'':>11} {'':>9} {'s a token':>10} {percentiles} {percentiles}")


def _print_row(each: "LoadFigures") -> None:
    answered = f"{each.requests - each.failed} of {each.requests}"
    normalized = "-" if each.normalized_latency_s is None else f"{each.normalized_latency_s:.4f}"
    print(
        f"{each.request_rate:>10g} {answered:>11} {each.output_tok_s:>9.1f} {normalized:>10} "
        f"{milliseconds(each.first_token_ms)} {milliseconds(each.between_tokens_ms)}",
        flush=True,
    )
    for error in each.errors:
        print(f"failed: {error}", file=sys.stderr)
