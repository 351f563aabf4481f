"""Log-probabilities under the model's own distribution: before temperature, penalties, masks and truncation."""

from collections.abc import Sequence

import numpy as np
import torch

from octavo.outputs import TokenLogprobs
from octavo.sampling.drawing import make_finite


def token_logprobs(logits: torch.Tensor, token_ids: torch.Tensor, num_top: Sequence[int]) -> list[TokenLogprobs]:
    """The given token's log-probability and rank, and the most likely tokens, at each position.

    Ranks count the tokens with a strictly higher logit; the most likely are in falling order, equals by their id. Sums
    are in float32, or float64 for float64 logits. NaN logits count as impossible.

    Args:
        logits: `[num_positions, vocab_size]`, as the model gave them.
        token_ids: `[num_positions]` int64.
        num_top: `[num_positions]`, how many of the most likely tokens to tell of; past the vocabulary is all of it.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    make_finite(exact, torch.zeros_like(token_ids))
    chosen = exact.gather(1, token_ids.unsqueeze(1))
    ranks = (exact > chosen).sum(dim=-1) + 1
    tops = top_tokens(exact, min(max(num_top, default=0), exact.shape[1]))
    logprobs = exact.log_softmax(dim=-1)
    told = [ids.tolist() for ids in (ranks, logprobs.gather(1, token_ids.unsqueeze(1)), tops, logprobs.gather(1, tops))]
    return [
        TokenLogprobs(token_id, logprob, rank, top_ids[:count], top_logprobs[:count])
        for token_id, count, rank, (logprob,), top_ids, top_logprobs in zip(
            token_ids.tolist(), num_top, *told, strict=True
        )
    ]


def score_prompt(logits: torch.Tensor, next_token_ids: torch.Tensor, num_top: int) -> list[TokenLogprobs]:
    """Log-probabilities of a prompt's tokens, each from the logits at the position before it.

    Args:
        logits: `[num_positions, vocab_size]`. Takes three times their memory: hand long prompts over in slices.
        next_token_ids: `[num_positions]` int64.
        num_top: how many of the most likely tokens to tell of at each position.
    """
    return token_logprobs(logits, next_token_ids, [num_top] * len(next_token_ids))


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
