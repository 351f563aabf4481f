"""From logits to one token a row: the most likely, or one drawn; and what is taken where the logits allow nothing."""

import torch


def most_likely(logits: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """The token of each row's highest logit, ties to the lowest id.

    Args:
        logits: `[num_rows, vocab_size]`, any floating dtype; NaN counts as impossible.
        fallback: `[num_rows]` int64, the token where every one is impossible.

    Returns:
        `[num_rows]` int64.
    """
    # torch documents that the first of several maxima is returned; NaN, if there is any, is a row's maximum.
    highest, token_ids = logits.max(dim=-1)
    broken = (~highest.isfinite()).nonzero().squeeze(1)
    if len(broken):
        repaired = logits.index_select(0, broken)
        make_finite(repaired, fallback[broken])
        token_ids[broken] = repaired.max(dim=-1).indices
    return token_ids


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
        repaired[empty, fallback[broken][empty]] = 0
        logits.index_copy_(0, broken, repaired)
        maxima[broken] = repaired.amax(dim=-1, keepdim=True)
    return maxima


def draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw a token from each row by inverting its cumulative distribution, tokens in the order of their ids.

    A token of probability zero is never drawn: the cumulative sum doesn't rise there.

    Args:
        probabilities: `[num_rows, vocab_size]`, not negative, with at least one above zero; they need not add up to 1.
        uniforms: `[num_rows]` float64 from 0 to 1 - 2^-53.

    Returns:
        `[num_rows]` int64.
    """
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    # A number of at most 1 - 2^-53 keeps the product under the total after rounding, so a place is always found.
    targets = uniforms.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(1)
