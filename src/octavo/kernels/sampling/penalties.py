"""Penalties on tokens that a row has seen: repetition (prompt and output), frequency and presence (output only).

Throughout, `logits` is `[num_rows, vocab_size]`, edited in place; `rows` says which of its rows pay, and the other
arguments have an entry for each of `rows`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import Indices, TokenIds
from octavo.kernels.sampling.ragged import flatten, known


def penalize_repetition(
    logits: torch.Tensor, rows: Indices, seen: Sequence[TokenIds], penalties: NDArray[np.float64]
) -> None:
    """Divide the positive logits of seen tokens by the row's penalty, multiply the negative ones.

    Keskar et al., CTRL, 2019, section 4.1, with negative logits as in Hugging Face's RepetitionPenaltyLogitsProcessor.
    """
    lengths = [len(token_ids) for token_ids in seen]
    places, token_ids = flatten(rows, seen)
    inside = token_ids < logits.shape[1]
    index = known(logits, places, token_ids)
    penalty = torch.from_numpy(np.repeat(penalties, lengths)[inside]).to(logits)
    values = logits[index]
    # A token seen twice is written twice, with one and the same value.
    logits[index] = torch.where(values > 0, values / penalty, values * penalty)


def penalize_occurrence(
    logits: torch.Tensor,
    rows: Indices,
    outputs: Sequence[TokenIds],
    frequency: NDArray[np.float64],
    presence: NDArray[np.float64],
) -> None:
    """Subtract `frequency` for each time that a token was generated, and `presence` once (OpenAI API reference)."""
    counted = [np.unique(token_ids, return_counts=True) for token_ids in outputs]
    places, token_ids = flatten(rows, [distinct for distinct, _ in counted])
    costs: list[NDArray[Any]] = [
        counts * each + once for (_, counts), each, once in zip(counted, frequency, presence, strict=True)
    ]
    cost = np.concatenate([np.zeros(0), *costs])[token_ids < logits.shape[1]]
    logits[known(logits, places, token_ids)] -= torch.from_numpy(cost).to(logits)
