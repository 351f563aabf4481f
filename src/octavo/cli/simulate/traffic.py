"""The requests that `octavo simulate` is asked to serve."""

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import islice

from octavo.config import EngineConfig
from octavo.errors import ConfigError
from octavo.evaluation.simulator.traffic import Arrival, Lengths, at_rate, drawn, faster, read_trace
from octavo.evaluation.workloads import MEANS, SIGMAS

Traffic = Callable[[float | None], Sequence[Arrival]]
"""The requests at a rate; at their own where that is None."""


def read_traffic(arguments: argparse.Namespace, config: EngineConfig, longest: int) -> Traffic:
    """The requests that the flags ask for, at whatever rate.

    Args:
        longest: that the model serves, in tokens.

    Raises:
        ConfigError: a flag is wrong, or the trace.
    """
    rate: float | None = arguments.rate
    if rate is not None and not rate > 0:
        raise ConfigError(f"--rate must be over 0, got {rate:g}")
    if not (arguments.length_scale > 0 and math.isfinite(arguments.length_scale)):
        raise ConfigError(f"--length-scale must be over 0, got {arguments.length_scale:g}")
    lengths = [name for name in ("prompt_tokens", "output_tokens") if getattr(arguments, name) is not None]
    if arguments.trace:
        if lengths:
            raise ConfigError(f"--trace has its own lengths: leave out --{lengths[0].replace('_', '-')}")
        found = read_trace(arguments.trace, arguments.requests, arguments.length_scale, longest)
        span_s = found[-1].arrival_s

        def replayed(rate: float | None) -> list[Arrival]:
            if rate is None or not span_s:
                return found
            return list(faster(found, rate * span_s / (len(found) - 1)))

        return replayed
    if arguments.length_scale != 1:
        raise ConfigError("--length-scale is for --trace: use --prompt-tokens and --output-tokens")
    means = zip(MEANS[arguments.dataset], SIGMAS, strict=True)
    own = [Lengths(mean, mean * math.sqrt(math.expm1(sigma**2))) for mean, sigma in means]
    prompts = _lengths("--prompt-tokens", arguments.prompt_tokens, own[0])
    outputs = _lengths("--output-tokens", arguments.output_tokens, own[1])
    seed = config.seed or 0
    pairs = list(islice(drawn(prompts, outputs, longest, seed), arguments.requests))
    return lambda rate: list(at_rate(pairs, 1.0 if rate is None else rate, seed))


def _lengths(name: str, given: str | None, own: Lengths) -> Lengths:
    """What a flag asks for, or a data set's own."""
    if given is None:
        return own
    try:
        numbers = [float(part) for part in given.split(",")]
        if len(numbers) > 2 or not all(math.isfinite(number) for number in numbers) or numbers[0] < 1:
            raise ValueError
        if len(numbers) == 2 and numbers[1] < 0:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{name} {given}: it is a mean of 1 or more, and perhaps a deviation: 200 or 200,150"
        ) from None
    return Lengths(*numbers)
