"""Truncated sampling: top-k, top-p and min-p as thresholds. Everything at least as likely as the last token kept stays.

So ties at the edge are all kept, and the order in which a sort leaves equals makes no difference.
"""

from typing import NamedTuple

import torch

WIDTHS = (64, 1024)
"""How many of the likeliest tokens are looked at, in turn; only rows of which more are kept are sorted whole."""


class Cutoffs(NamedTuple):
    """Each row's truncation, `[num_rows]` each."""

    top_k: torch.Tensor
    """int64: keep the k likeliest tokens (Fan, Lewis and Dauphin, 2018); 0 keeps all."""
    top_p: torch.Tensor
    """float64 in (0, 1]: of those, keep the fewest likeliest with this share of their mass (Holtzman et al., 2020)."""
    min_p: torch.Tensor
    """float64 in [0, 1]: of those, keep any with this share of the likeliest's probability (Nguyen et al., 2024)."""

    def at(self, rows: torch.Tensor) -> "Cutoffs":
        """The cutoffs of these rows only."""
        return Cutoffs(self.top_k[rows], self.top_p[rows], self.min_p[rows])

    def any(self, vocab_size: int) -> torch.Tensor:
        """`[num_rows]` bool: whether anything is cut."""
        return ((self.top_k > 0) & (self.top_k < vocab_size)) | (self.top_p < 1) | (self.min_p > 0)


class KeptTokens(NamedTuple):
    """All the tokens that some rows keep, in the order of their ids, and others of probability zero."""

    rows: torch.Tensor
    """`[num_rows]` int64: which of the rows these are."""
    token_ids: torch.Tensor
    """`[num_rows, width]` int64, rising; `[1, width]` where all rows have the same."""
    probabilities: torch.Tensor
    """`[num_rows, width]`, not rescaled."""


def truncate(probabilities: torch.Tensor, cutoffs: Cutoffs) -> list[KeptTokens]:
    """What each row keeps, in groups of rows that keep about equally many tokens; each row is in one group.

    A row's group and its candidates depend on no other row.

    Args:
        probabilities: `[num_rows, vocab_size]`, each row adding up to 1.
    """
    vocab_size = probabilities.shape[1]
    cut = cutoffs.any(vocab_size)
    remaining, untouched = cut.nonzero().squeeze(1), (~cut).nonzero().squeeze(1)
    groups = [_whole(_take(probabilities, untouched), untouched)]
    for width in (width for width in WIDTHS if width < vocab_size):
        if len(remaining):
            group, complete = _likeliest(_take(probabilities, remaining), remaining, cutoffs.at(remaining), width)
            groups.append(group)
            remaining = remaining[~complete]
    if len(remaining):
        rest = _take(probabilities, remaining)
        floors, _ = _floors(rest.sort(-1, descending=True).values, cutoffs.at(remaining), vocab_size)
        groups.append(_whole(rest.masked_fill(rest < floors, 0), remaining))
    return [group for group in groups if len(group.rows)]


def _likeliest(
    probabilities: torch.Tensor, rows: torch.Tensor, cutoffs: Cutoffs, width: int
) -> tuple[KeptTokens, torch.Tensor]:
    """The rows that keep nothing beyond their `width` likeliest tokens; and which they are, `[num_rows]` bool."""
    likeliest, token_ids = probabilities.topk(width)
    floors, complete = _floors(likeliest, cutoffs, probabilities.shape[1])
    kept = likeliest.masked_fill(likeliest < floors, 0)[complete]
    rising, order = token_ids[complete].sort(-1)
    return KeptTokens(rows[complete], rising, kept.gather(1, order)), complete


def _whole(probabilities: torch.Tensor, rows: torch.Tensor) -> KeptTokens:
    token_ids = torch.arange(probabilities.shape[1], device=probabilities.device)
    return KeptTokens(rows, token_ids.unsqueeze(0), probabilities)


def _take(probabilities: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """These rows, copied only where they aren't all of them; `rows` is rising."""
    return probabilities if len(rows) == len(probabilities) else probabilities.index_select(0, rows)


def _floors(likeliest: torch.Tensor, cutoffs: Cutoffs, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least probability that each row keeps, and whether its likeliest tokens tell all that it keeps.

    Args:
        likeliest: `[num_rows, width]` probabilities, falling.

    Returns:
        `[num_rows, 1]`, the probabilities' dtype, right where all is told or `width` is all; `[num_rows]` bool.
    """
    width = likeliest.shape[1]
    top_k, top_p, min_p = (cutoff.unsqueeze(1) for cutoff in cutoffs)
    counted = (top_k > 0) & (top_k < vocab_size)
    least = likeliest.gather(1, top_k.clamp(1, width) - 1).where(counted, 0)
    # Added up in order and in float64: a prefix has the same mass however many tokens follow it.
    mass = likeliest.masked_fill(likeliest < least, 0).cumsum(-1, dtype=torch.float64)
    wanted = top_p * mass[:, -1:].where(counted, 1)
    last = (mass < wanted).sum(-1, keepdim=True)
    least_in_nucleus = likeliest.gather(1, last.clamp(max=width - 1)).where(top_p < 1, 0)
    least_by_share = (min_p * likeliest[:, :1]).to(likeliest.dtype)
    floors = torch.maximum(torch.maximum(least, least_in_nucleus), least_by_share)
    found = (~counted | (top_k <= width)) & ((top_p == 1) | (last < width))
    # A nucleus is measured against the mass of the top-k set: the whole of that set, ties included, has to be here.
    beyond = likeliest[:, -1:]
    complete = (found & (beyond < least.where(counted, floors))) | (beyond == 0)
    return floors, complete.squeeze(1)
