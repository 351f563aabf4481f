"""What `Kernels.sample` is given and what it gives: plain arrays in, tensors on the logits' device out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

TokenIds = NDArray[np.integer[Any]]
"""`[num_tokens]`, of any integer dtype."""
Indices = NDArray[np.int64]
"""`[num_rows]`: places of rows in a batch of logits."""

NO_TOKEN = -1
"""In place of a beam's token."""

PARAMETERS = np.dtype(
    [
        ("temperature", np.float64),
        ("top_k", np.int64),  # 0 keeps all
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("num_logprobs", np.int64),  # likeliest tokens to tell of beside the chosen one; -1 tells nothing
        ("num_candidates", np.int64),  # of a beam, to give in place of a token; 0 is no beam
        ("seed", np.uint64),
        ("sequence_index", np.int64),
    ]
)
"""How a row is sampled, whatever its tokens."""


@dataclass(frozen=True, slots=True)
class RowEdits:
    """What changes the logits of one row before a token is chosen, in the order of the fields. None changes nothing."""

    allowed: TokenIds | None = None
    """Only these tokens are possible."""
    mask: bytes | None = None
    """Only tokens whose bit is set are possible, lowest bit first."""
    biased: TokenIds | None = None
    """Distinct tokens to whose logits `biases` are added."""
    biases: NDArray[np.float64] | None = None
    penalties: "Penalties | None" = None
    held_back: TokenIds | None = None
    """These tokens are impossible."""


@dataclass(frozen=True, slots=True)
class Penalties:
    """Of the tokens that a row has seen."""

    prompt: TokenIds
    output: TokenIds
    repetition: float
    """Of tokens of both; 1 changes nothing."""
    frequency: float
    """Of output tokens, for each time; 0 changes nothing."""
    presence: float
    """Of output tokens, once; 0 changes nothing."""


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How the rows of some logits are sampled."""

    fallback: NDArray[np.int64]
    """`[num_rows]`: the token of a row whose logits and masks leave none; 0 is taken for one past the vocabulary."""
    parameters: NDArray[np.void]
    """`[num_rows]` of `PARAMETERS`, by name: `parameters["temperature"]`. Empty where `is_plain`, as the next."""
    positions: NDArray[np.int64]
    """`[num_rows]`: how many tokens each row has generated."""
    edits: Mapping[int, RowEdits] = field(default_factory=dict)
    """By the row's index, of those rows that have any."""
    is_plain: bool = False
    """Whether every row takes its likeliest token, and nothing else is asked for."""
    named: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)
    """By the row's index: tokens of the vocabulary that are told of beside the chosen one. None of these rows is a
    beam, and they ask for logprobs of no likeliest tokens."""

    def at(self, indices: Indices) -> "SamplingBatch":
        """These rows only."""
        old_of = dict(enumerate(indices.tolist()))
        edits = {new: self.edits[old] for new, old in old_of.items() if old in self.edits}
        named = {new: self.named[old] for new, old in old_of.items() if old in self.named}
        return SamplingBatch(
            self.fallback[indices], self.parameters[indices], self.positions[indices], edits, named=named
        )

    @property
    def beams(self) -> Indices:
        """The rows that are beams, in rising order, as the two below."""
        return np.flatnonzero(self.parameters["num_candidates"] > 0)

    @property
    def scored_rows(self) -> Indices:
        """The rows, none of them a beam, that ask for logprobs…"""
        return np.flatnonzero((self.parameters["num_logprobs"] >= 0) & (self.parameters["num_candidates"] == 0))

    @property
    def scored_beams(self) -> Indices:
        """…and the beams that do."""
        return np.flatnonzero((self.parameters["num_logprobs"] >= 0) & (self.parameters["num_candidates"] > 0))

    @property
    def named_of_scored(self) -> NDArray[np.int64]:
        """`[num_scored, most]`: the tokens that each of `scored_rows` names, filled up with `NO_TOKEN`."""
        names = [self.named.get(row, _NOTHING) for row in self.scored_rows.tolist()]
        filled = np.full((len(names), max(map(len, names), default=0)), NO_TOKEN, np.int64)
        for place, own in enumerate(names):
            filled[place, : len(own)] = own
        return filled


_NOTHING = np.zeros(0, np.int64)


def tokens_to_score(chosen: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """`[n, 1 + most]`: the chosen token of each row, then those that it names, the chosen one again in place of
    `NO_TOKEN`.

    Args:
        chosen: `[n]` int64.
        named: `[n, most]` int64, on the same device.
    """
    first = chosen.unsqueeze(1)
    return torch.cat((first, torch.where(named == NO_TOKEN, first, named)), dim=1)


@dataclass(frozen=True, slots=True)
class Scores:
    """What is told of `k` tokens at each of `n` positions, under the model's own distribution."""

    token_ids: torch.Tensor
    """`[n, k]` int64."""
    logprobs: torch.Tensor
    """`[n, k]`, float32 or float64."""
    ranks: torch.Tensor
    """`[n, k]` int64: one more than the tokens with a strictly higher logit."""
    top_token_ids: torch.Tensor
    """`[n, num_top]` int64: the likeliest tokens in falling order, equals by their id."""
    top_logprobs: torch.Tensor
    """`[n, num_top]`."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """What may come next in beams, as many tokens of each as one of them asks for."""

    token_ids: torch.Tensor
    """`[num_beams, num_candidates]` int64: the likeliest in falling order, equals by their id."""
    logprobs: torch.Tensor
    """`[num_beams, num_candidates]`; minus infinity is impossible. Under the model's own distribution, edited as logits
    are and not made to add up to one again."""
    scores: Scores | None = None
    """Of these tokens, at the beams that ask for logprobs; None where none does."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a batch of logits gave."""

    token_ids: torch.Tensor
    """`[num_rows]` int64, `NO_TOKEN` for a beam."""
    broken: torch.Tensor
    """`[num_rows]` bool: whether the row's highest logit is no finite number. What was chosen there means nothing."""
    scores: Scores | None = None
    """Of the chosen tokens, and behind each of those that its row names, at `SamplingBatch.scored_rows`; None where
    there are none."""
    candidates: TopTokens | None = None
    """Of `SamplingBatch.beams`; None where there are none."""
