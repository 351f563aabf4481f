"""The requests that the paper has come: their lengths, prefixes and sequences."""

import random
from collections.abc import Iterator
from functools import cache
from itertools import islice

import msgspec

from octavo.evaluation.decoding import ONE_SEQUENCE, Decoding
from octavo.evaluation.paper.setups import LONGEST
from octavo.evaluation.simulator.replay import prompt_ids
from octavo.evaluation.simulator.traffic import Arrival, Lengths, at_rate, behind_prefix, decoded, drawn
from octavo.evaluation.workloads import MEANS, SIGMAS, Work

NAMES = {"sharegpt": "ShareGPT", "alpaca": "Alpaca"}
"""Of the data sets, as people write them."""
CHAT, TRANSLATION = "chat", "translation"
OTHER_MEANS = {TRANSLATION: (30.0, 38.0)}
"""Mean tokens of prompts and outputs that the paper tells nothing of: English sentences of WMT16, of some 21 words, and
their German ones, behind whatever prefix."""
MOST_HISTORY = MOST_ANSWER = 1024
"""Tokens that a chat keeps of what was said, and may answer (section 6.5)."""
MEAN_ROUNDS = 5
"""Of a chat, before the one that is served: then most prompts have 1,024 tokens, as the paper says of its own."""
NUM_DRAWN = 20_000
"""Lengths that their means are set by."""


class Workload(msgspec.Struct, frozen=True):
    """What kind of requests come."""

    dataset: str
    """`sharegpt`, `alpaca`, `chat` or `translation`."""
    prefix_tokens: int = 0
    """That all prompts begin with."""
    decoding: Decoding = ONE_SEQUENCE
    scale: float = 1.0
    """Of lengths."""

    def arrivals(self, count: int, rate: float, seed: int = 0) -> Iterator[Arrival]:
        """So many requests, at so many a second."""
        lengths = (
            (max(1, round(self.scale * num_prompt)), max(1, round(self.scale * num_output)))
            for num_prompt, num_output in pairs(self.dataset, count, seed)
        )
        return decoded(behind_prefix(at_rate(lengths, rate, seed), self.prefix_tokens), self.decoding)


def pairs(dataset: str, count: int, seed: int = 0) -> list[tuple[int, int]]:
    """Prompt and output tokens as the paper's data set has them: log-normal, of its means once those that are longer
    than the model are left out. Prompts tell nothing of outputs: in a production trace the logarithms of both correlate
    by 0.09 (Azure LLM inference trace, conversations, 2023)."""
    if dataset == CHAT:
        return list(islice(_chats(seed), count))
    return list(islice(drawn(*_lengths(dataset), LONGEST, seed), count))


def work(dataset: str, count: int, vocab_size: int) -> list[Work]:
    """Requests of these lengths, whose prompts have nothing in common."""
    return [
        Work(prompt_ids(number, num_prompt, vocab_size), num_output)
        for number, (num_prompt, num_output) in enumerate(pairs(dataset, count))
    ]


def _chats(seed: int) -> Iterator[tuple[int, int]]:
    """Rounds of chats, at whatever place in one: what was said before is a part of the prompt."""
    generator = random.Random(seed)
    rounds = drawn(*_lengths("sharegpt"), LONGEST, seed)
    while True:
        history = 0
        while generator.random() < MEAN_ROUNDS / (MEAN_ROUNDS + 1):
            history += sum(next(rounds))
        num_prompt, num_output = next(rounds)
        yield min(history + num_prompt, MOST_HISTORY), min(num_output, MOST_ANSWER)


@cache
def _lengths(dataset: str) -> tuple[Lengths, Lengths]:
    """Lengths whose means are the data set's after the longest pairs have gone."""
    wanted = {**MEANS, **OTHER_MEANS}[dataset]
    means = list(wanted)
    for _ in range(8):
        pairs = islice(drawn(*_log_normal(means), LONGEST, seed=0), NUM_DRAWN)
        found = [sum(numbers) / NUM_DRAWN for numbers in zip(*pairs, strict=True)]
        means = [mean * own / mean_found for mean, own, mean_found in zip(means, wanted, found, strict=True)]
    return _log_normal(means)


def _log_normal(means: list[float]) -> tuple[Lengths, Lengths]:
    prompts, outputs = (Lengths.of_logarithms(mean, sigma) for mean, sigma in zip(means, SIGMAS, strict=True))
    return prompts, outputs
