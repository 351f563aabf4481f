"""Requests as they come: when, and how long their prompts and outputs are. Drawn, or read from a trace."""

import csv
import logging
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from octavo.errors import ConfigError
from octavo.evaluation.decoding import ONE_SEQUENCE, Decoding

COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens")
MOST_TOKENS = 10**9
"""Of a prompt or an output, that are taken for a number of tokens."""

logger = logging.getLogger(__name__)


class Arrival(msgspec.Struct, frozen=True):
    """One request."""

    arrival_s: float
    """Since the first one could come."""
    prompt_tokens: int
    output_tokens: int
    """Of each of its sequences."""
    prefix_tokens: int = 0
    """Of the prompt's, the first ones, which all requests begin with."""
    decoding: Decoding = ONE_SEQUENCE


class Lengths(msgspec.Struct, frozen=True):
    """Tokens of prompts or outputs: log-normal, as lengths of texts are, with this mean and standard deviation; all
    alike where that is 0."""

    mean: float
    deviation: float = 0.0

    @classmethod
    def of_logarithms(cls, mean: float, sigma: float) -> "Lengths":
        """Of this mean, and this standard deviation of the logarithms."""
        return cls(mean, mean * math.sqrt(math.expm1(sigma**2)))

    def draw(self, generator: random.Random) -> int:
        """At least 1."""
        if not self.deviation:
            return max(1, round(self.mean))
        spread = math.log1p((self.deviation / self.mean) ** 2)
        return max(1, round(generator.lognormvariate(math.log(self.mean) - spread / 2, math.sqrt(spread))))


def drawn(prompts: Lengths, outputs: Lengths, longest: int, seed: int) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens without end. Pairs of more than `longest` tokens together are drawn again."""
    generator = random.Random(seed)
    if max(1, round(prompts.mean)) + max(1, round(outputs.mean)) > longest:
        raise ConfigError(
            f"prompts of {prompts.mean:g} and outputs of {outputs.mean:g} tokens on average are over the {longest} "
            "that the model length has for them: lower --prompt-tokens or --output-tokens, or raise --max-model-len"
        )
    while True:
        pair = prompts.draw(generator), outputs.draw(generator)
        if sum(pair) <= longest:
            yield pair


def at_rate(pairs: Iterable[tuple[int, int]], rate: float, seed: int) -> Iterator[Arrival]:
    """The pairs as a Poisson process has them come (paper, section 6.1).

    Args:
        rate: requests a second; with infinity all come at once.
    """
    generator = random.Random(seed)
    now_s = 0.0
    for num_prompt, num_output in pairs:
        if math.isfinite(rate):
            now_s += generator.expovariate(rate)
        yield Arrival(now_s, num_prompt, num_output)


def read_trace(path: str, count: int | None, scale: float = 1.0, longest: int | None = None) -> list[Arrival]:
    """The first requests of a CSV file with the columns of `COLUMNS`, in the order of their arrivals. A warning tells
    how many are left out.

    Args:
        scale: multiplies the lengths, which stay at least 1.
        longest: requests of more tokens than that, prompt and output, are left out.

    Raises:
        ConfigError: there is no such file, or it holds something else, or no request that fits.
    """
    too_long: list[Arrival] = []
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            arrivals = list(islice(_fitting(_rows(file, path), scale, longest, too_long), count))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--trace {path} cannot be read as CSV: {error}") from error
    if arrivals and too_long:
        logger.warning(
            "--trace %s: %d of its requests are left out, as prompt and output are over the %d tokens that the model "
            "length has for them: lower --length-scale, or raise --max-model-len",
            path,
            len(too_long),
            longest,
        )
    if not arrivals:
        raise ConfigError(f"--trace {path} has no request" + (f" of at most {longest} tokens" if longest else ""))
    first_s = arrivals[0].arrival_s
    return [msgspec.structs.replace(each, arrival_s=each.arrival_s - first_s) for each in arrivals]


def again_and_again(arrivals: Sequence[Arrival]) -> Iterator[Arrival]:
    """Requests without end: the same once more a mean gap after the last."""
    gap_s = arrivals[-1].arrival_s / max(1, len(arrivals) - 1)
    first_s = 0.0
    while True:
        for each in arrivals:
            yield msgspec.structs.replace(each, arrival_s=first_s + each.arrival_s)
        first_s += arrivals[-1].arrival_s + gap_s


def faster(arrivals: Iterable[Arrival], times: float) -> Iterator[Arrival]:
    """The same requests at as many times their rate."""
    for each in arrivals:
        yield msgspec.structs.replace(each, arrival_s=each.arrival_s / times)


def behind_prefix(arrivals: Iterable[Arrival], num_tokens: int) -> Iterator[Arrival]:
    """The same requests, their prompts behind so many tokens that are the same in all."""
    for each in arrivals:
        yield msgspec.structs.replace(
            each, prompt_tokens=each.prompt_tokens + num_tokens, prefix_tokens=each.prefix_tokens + num_tokens
        )


def decoded(arrivals: Iterable[Arrival], decoding: Decoding) -> Iterator[Arrival]:
    """The same requests, of so many sequences each."""
    for each in arrivals:
        yield msgspec.structs.replace(each, decoding=decoding)


def share(arrivals: Iterable[Arrival], replica: int, num_replicas: int) -> Iterator[Arrival]:
    """Those of one of several replicas, which get them in turn."""
    return islice(arrivals, replica, None, num_replicas)


def _rows(file: Iterable[str], path: str) -> Iterator[Arrival]:
    reader = csv.DictReader(file)
    names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    if missing := [name for name in COLUMNS if name not in names]:
        raise ConfigError(f"--trace {path} has no column {', '.join(missing)}: it needs {', '.join(COLUMNS)}")
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise ConfigError(f"--trace {path} has the column {twice[0]} twice")
    last_s = -math.inf
    for line, row in enumerate(reader, 2):
        try:
            arrival = Arrival(float(row["arrival_s"]), int(row["prompt_tokens"]), int(row["output_tokens"]))
        except (TypeError, ValueError):
            raise ConfigError(
                f"--trace {path}, line {line}: it needs a number in arrival_s, and whole ones in prompt_tokens and "
                "output_tokens"
            ) from None
        if not math.isfinite(arrival.arrival_s):
            raise ConfigError(f"--trace {path}, line {line}: arrival_s must be finite")
        if arrival.arrival_s < last_s:
            raise ConfigError(f"--trace {path}, line {line}: arrivals must not go back in time")
        if not all(1 <= tokens <= MOST_TOKENS for tokens in (arrival.prompt_tokens, arrival.output_tokens)):
            raise ConfigError(
                f"--trace {path}, line {line}: prompt and output need a token at least, and {MOST_TOKENS:,} at the most"
            )
        last_s = arrival.arrival_s
        yield arrival


def _fitting(
    arrivals: Iterator[Arrival], scale: float, longest: int | None, too_long: list[Arrival]
) -> Iterator[Arrival]:
    for each in arrivals:
        num_prompt, num_output = (
            max(1, round(min(scale * own, MOST_TOKENS))) for own in (each.prompt_tokens, each.output_tokens)
        )
        if longest is None or num_prompt + num_output <= longest:
            yield Arrival(each.arrival_s, num_prompt, num_output)
        else:
            too_long.append(each)
