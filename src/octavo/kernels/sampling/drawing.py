"""From logits to one token a row: the most likely, or one drawn; and what is taken where the logits allow nothing."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.noise import exponential, hash_tokens

NOISE_AT_ONCE = 1 << 18
"""Noise is made for whole rows of about this many tokens in all, to bound memory and stay in a processor's cache."""


def most_likely(logits: torch.Tensor, fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
    """The token of each row's highest logit, ties to the lowest id.

    Args:
        logits: `[num_rows, vocab_size]`, any floating dtype; NaN counts as impossible.
        fallback: `[num_rows]`, the token where every one is impossible; 0 is taken for one past the vocabulary.

    Returns:
        `[num_rows]` int64; and `[num_rows]` bool, the broken rows.
    """
    highest, token_ids = _first_maxima(logits)
    is_broken = ~np.isfinite(highest)
    if is_broken.any():
        rows = np.flatnonzero(is_broken)
        repaired = logits[torch.from_numpy(rows).to(logits.device)]
        make_finite(repaired, torch.from_numpy(fallback[rows]).to(logits.device))
        token_ids[rows] = repaired.max(dim=-1).indices
    return token_ids, torch.from_numpy(is_broken).to(logits.device)


def broken_rows(logits: torch.Tensor) -> torch.Tensor:
    """`[num_rows]` bool: whether the row's highest logit is no finite number."""
    return ~logits.amax(dim=-1).isfinite()


def _first_maxima(logits: torch.Tensor) -> tuple[NDArray[Any], torch.Tensor]:
    """Each row's maximum, and where it first is; NaN, if there is any, is a row's maximum.

    On the CPU by numpy: its argmax of float32 is ten times as fast as torch's, and a call a fifth of the price.
    """
    if logits.device.type == "cpu" and logits.dtype.itemsize >= 4:
        values = logits.numpy()
        places = values.argmax(axis=-1)
        return values[np.arange(len(values)), places], torch.from_numpy(places)
    # torch documents that the first of several maxima is returned.
    highest, token_ids = logits.max(dim=-1)
    return highest.float().cpu().numpy(), token_ids


def make_finite(logits: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Repair, in place, rows that no distribution can be made of: afterwards each has a finite maximum.

    NaN becomes minus infinity and plus infinity the largest number. A row where nothing is left (all NaN, or a mask
    that allows no token) gets one possible token, its `fallback`. Other rows stay as they are, so that one broken row
    does not fail a batch.

    Args:
        logits: `[num_rows, vocab_size]`.
        fallback: `[num_rows]` int64.

    Returns:
        `[num_rows, 1]`, the maxima.
    """
    maxima = logits.amax(dim=-1, keepdim=True)
    broken = (~maxima.isfinite()).nonzero()[:, 0]
    if len(broken):
        repaired = logits.index_select(0, broken).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
        empty = (repaired.amax(dim=-1) == -torch.inf).nonzero().squeeze(1)
        tokens = fallback[broken][empty]
        repaired[empty, torch.where(tokens < logits.shape[1], tokens, 0)] = 0
        logits.index_copy_(0, broken, repaired)
        maxima[broken] = repaired.amax(dim=-1, keepdim=True)
    return maxima


def draw(probabilities: torch.Tensor, token_ids: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Draw a token from each row by an exponential race: the highest of probability / noise, ties to the lowest id.

    Each token has noise of its own (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006, with
    logarithms taken). So where two rows of one key differ by rounding, they part about as rarely as any two draws from
    them must: with a chance of at most 2d / (1 + d), d being their total variation distance. An inverted cumulative
    sum would carry one token's rounding over to all tokens after it.

    A token of probability zero is never drawn, nor, as noise has 32 bits, is one more than 2^38 times less likely than
    the likeliest.

    Args:
        probabilities: `[num_rows, num_tokens]` float32 or float64, not negative; they need not add up to 1, but the
            highest of a row is a normal number.
        token_ids: `[num_rows, num_tokens]` or `[1, num_tokens]` int64, rising along a row.
        keys: `[num_rows, 2]` int32, which the noise is a function of: see `noise.exponential`.

    Returns:
        `[num_rows]` int64 token ids.
    """
    hashed = hash_tokens(token_ids).expand(probabilities.shape)
    rows_at_once = max(1, NOISE_AT_ONCE // probabilities.shape[1])
    parts = zip(*(torch.split(whole, rows_at_once) for whole in (probabilities, hashed, keys)), strict=True)
    places = [
        torch.div(chances, exponential(part, row_keys, chances.dtype)).max(dim=-1, keepdim=True).indices
        for chances, part, row_keys in parts
    ]
    return token_ids.expand(probabilities.shape).gather(1, torch.cat(places)).squeeze(1)
