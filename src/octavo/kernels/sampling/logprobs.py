"""Log-probabilities under the model's own distribution: before temperature, penalties, masks and truncation."""

import numpy as np
import torch

from octavo.kernels.sampling.drawing import make_finite
from octavo.kernels.sampling.interface import Scores


def score_tokens(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
    """Log-probabilities and ranks of given tokens, and the most likely tokens, at each position.

    Sums are in float32, or float64 for float64 logits. NaN logits count as impossible.

    Args:
        logits: `[n, vocab_size]`, as the model gave them. Takes three times their memory.
        token_ids: `[n, k]` int64.
        num_top: how many of the most likely tokens to tell of; past the vocabulary is all of it.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    make_finite(exact, torch.zeros(len(exact), dtype=torch.int64, device=exact.device))
    ranks = [(exact > chosen.unsqueeze(1)).sum(dim=-1) + 1 for chosen in exact.gather(1, token_ids).unbind(1)]
    tops = top_tokens(exact, min(num_top, exact.shape[1]))
    logprobs = exact.log_softmax(dim=-1)
    return Scores(token_ids, logprobs.gather(1, token_ids), torch.stack(ranks, 1), tops, logprobs.gather(1, tops))


def top_tokens(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` highest logits of each row in falling order, of equals the lower ids: `topk` alone takes any of them.

    Returns:
        `[num_positions, count]` int64.
    """
    if count == 0:
        return torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    floors = logits.topk(count, dim=-1).values[:, -1:]
    rows, token_ids = (logits >= floors).nonzero(as_tuple=True)
    order = np.lexsort((-logits[rows, token_ids].cpu().numpy(), rows.cpu().numpy()))
    firsts = torch.searchsorted(rows, torch.arange(len(logits), device=logits.device))
    places = firsts.unsqueeze(1) + torch.arange(count, device=logits.device)
    return token_ids[torch.from_numpy(order).to(logits.device)[places]]
