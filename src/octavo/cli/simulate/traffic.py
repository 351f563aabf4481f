"""The requests that `octavo simulate` is asked to serve."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from octavo.cli.simulate.flags import DEFAULT_DATASET
from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.decoding import Decoding
from octavo.evaluation.simulator.traffic import (
    MOST_TOKENS,
    Arrival,
    Lengths,
    again_and_again,
    at_rate,
    behind_prefix,
    decoded,
    drawn,
    faster,
    read_trace,
)
from octavo.evaluation.workloads import MEANS, SIGMAS

Traffic = Callable[[float | None], Sequence[Arrival]]
"""The requests at a rate; at their own where that is None."""

LOAD_S = 60.0
"""For which requests come at the least, where the highest rate is looked for: too few would all fit at once, and no
rate be too high."""


def read_traffic(arguments: argparse.Namespace, config: EngineConfig, longest: int) -> Traffic:
    """The requests that the flags ask for, at whatever rate.

    Args:
        longest: that the model serves, in tokens.

    Raises:
        ConfigError: a flag is wrong, or the trace.
    """
    is_load = arguments.sweep or arguments.plan

    def num_requests(rate: float | None) -> int:
        asked: int = arguments.requests
        return max(asked, round(rate * LOAD_S)) if is_load and rate else asked

    kind, most_prefix = _kind(arguments), longest - 2
    if arguments.prefix_tokens > most_prefix:
        raise ConfigError(
            f"--prefix-tokens {arguments.prefix_tokens} leaves nothing of the model length of {longest}: give at most "
            f"{most_prefix}, or raise --max-model-len"
        )
    longest -= arguments.prefix_tokens
    rate: float | None = arguments.rate
    if rate is not None and not rate > 0:
        raise ConfigError(f"--rate must be over 0, got {rate:g}")
    if not (arguments.length_scale > 0 and math.isfinite(arguments.length_scale)):
        raise ConfigError(f"--length-scale must be over 0, got {arguments.length_scale:g}")
    lengths = [name for name in ("prompt_tokens", "output_tokens") if getattr(arguments, name) is not None]
    if arguments.trace:
        if arguments.dataset:
            raise ConfigError(f"--trace has its own lengths: leave out --dataset {arguments.dataset}")
        if lengths:
            raise ConfigError(f"--trace has its own lengths: leave out --{lengths[0].replace('_', '-')}")
        found = list(kind(read_trace(arguments.trace, arguments.requests, arguments.length_scale, longest)))
        span_s = found[-1].arrival_s
        if not span_s and (is_load or (rate is not None and math.isfinite(rate))):
            raise ConfigError(
                f"--trace {arguments.trace} has all of its requests at one time: there is no rate to be changed by "
                "--rate, --sweep or --plan"
            )

        def replayed(rate: float | None) -> list[Arrival]:
            if rate is None or not span_s:  # as they come, which may be all at once
                return found
            own = islice(again_and_again(found), max(len(found), num_requests(rate) if is_load else 0))
            return list(faster(own, rate * span_s / (len(found) - 1)))

        return replayed
    if arguments.length_scale != 1:
        raise ConfigError("--length-scale is for --trace: use --prompt-tokens and --output-tokens")
    if arguments.dataset and len(lengths) == 2:
        raise ConfigError(f"--prompt-tokens and --output-tokens are all that --dataset {arguments.dataset} would tell")
    means = zip(MEANS[arguments.dataset or DEFAULT_DATASET], SIGMAS, strict=True)
    own = [Lengths.of_logarithms(mean, sigma) for mean, sigma in means]
    prompts = _lengths("--prompt-tokens", arguments.prompt_tokens, own[0])
    outputs = _lengths("--output-tokens", arguments.output_tokens, own[1])
    seed = config.seed or 0
    pairs = drawn(prompts, outputs, longest, seed)
    known: list[tuple[int, int]] = []

    def drawn_at(rate: float | None) -> list[Arrival]:
        count = num_requests(rate)
        known.extend(islice(pairs, max(0, count - len(known))))
        return list(kind(at_rate(known[:count], 1.0 if rate is None else rate, seed)))

    return drawn_at


def own_rate(arrivals: Sequence[Arrival]) -> float | None:
    """Requests a second; None where they come all at once."""
    span_s = arrivals[-1].arrival_s
    return (len(arrivals) - 1) / span_s if span_s else None


def _kind(arguments: argparse.Namespace) -> Callable[[Iterable[Arrival]], Iterator[Arrival]]:
    """What makes requests of the kind that is asked for: with their prefix, and as many sequences."""
    num_prefix, num_samples, num_beams = arguments.prefix_tokens, arguments.n, arguments.beam_width
    if num_prefix < 0:
        raise ConfigError(f"--prefix-tokens must not be below 0, got {num_prefix}")
    for name, number in (("--n", num_samples), ("--beam-width", num_beams)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")
    decoding = Decoding("parallel", num_samples) if num_beams is None else Decoding("beam", num_beams)
    return lambda arrivals: decoded(behind_prefix(arrivals, num_prefix), decoding)


def _lengths(name: str, given: str | None, own: Lengths) -> Lengths:
    """What a flag asks for, or a data set's own."""
    if given is None:
        return own
    try:
        numbers = [float(part) for part in given.split(",")]
        if len(numbers) > 2 or not all(0 <= number <= MOST_TOKENS for number in numbers) or numbers[0] < 1:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{name} {given}: it is a mean of 1 or more, and perhaps a deviation, neither over {MOST_TOKENS:,}: 200 or "
            "200,150"
        ) from None
    return Lengths(*numbers)
