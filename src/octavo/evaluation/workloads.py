"""Workloads: requests as lengths and token ids, from a file or drawn from the paper's distributions."""

import math
import random
from pathlib import Path

import msgspec

from octavo.errors import ConfigError

MEANS = {"sharegpt": (161.31, 337.99), "alpaca": (19.31, 58.45)}
"""Mean tokens of prompts and outputs (paper, figure 11)."""

SIGMAS = (1.1, 0.9)
"""Of the log-normal lengths of prompts and outputs."""
_LONGEST = 2048
_SHORTEST = 4
_FIRST_ID, _END_ID = 100, 49_000
"""The lowest ids are a vocabulary's special tokens."""
_NUM_RENEWED_IDS = 48_000


class Work(msgspec.Struct, frozen=True):
    """One request: the prompt's token ids, and how many tokens to generate."""

    ids: list[int]
    out: int


def read_workload(path: str) -> list[Work]:
    """A JSON list of `{"ids": [...], "out": n}`.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        work = msgspec.json.decode(Path(path).read_bytes(), type=list[Work])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--workload {path} is not a workload: {error}") from error
    if not work or min(min(len(w.ids), w.out) for w in work) < 1:
        raise ConfigError(f"--workload {path} has no requests, or one without prompt or output")
    return work


def draw_workload(kind: str, num_requests: int, scale: float, seed: int) -> list[Work]:
    """Log-normal lengths with the means of a data set of the paper, and random token ids.

    Args:
        kind: a key of `MEANS`.
        scale: multiplies both means.
    """
    generator = random.Random(seed)

    def length(mean: float, sigma: float) -> int:
        return int(generator.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) * scale)

    work: list[Work] = []
    while len(work) < num_requests:
        num_in, num_out = (length(mean, sigma) for mean, sigma in zip(MEANS[kind], SIGMAS, strict=True))
        if min(num_in, num_out) >= _SHORTEST and num_in + num_out <= _LONGEST:
            work.append(Work([generator.randrange(_FIRST_ID, _END_ID) for _ in range(num_in)], num_out))
    return work


def renewed(work: list[Work], repeat: int, vocab_size: int | None = None) -> list[Work]:
    """The same lengths with other token ids, so that no repeat finds its prompts in a prefix cache.

    Args:
        repeat: each number gives other ids.
        vocab_size: the ids are below it, where it is known.
    """
    first, num_ids = _FIRST_ID, _NUM_RENEWED_IDS
    if vocab_size is not None and vocab_size < first + num_ids:
        first = first if vocab_size > 2 * first else 0
        num_ids = vocab_size - first
    return [Work([(token + 7919 * repeat) % num_ids + first for token in w.ids], w.out) for w in work]


def repeated(work: list[Work], num_requests: int, repeat: int, num_repeats: int) -> list[Work]:
    """The first `num_requests` of the work with ids that none of the other repeats has; where the work has fewer, it
    begins again with other ids."""
    rounds = -(-num_requests // len(work))
    again = [each for number in range(rounds) for each in renewed(work, number * num_repeats + repeat)]
    return again[:num_requests]
