"""Log-probabilities, ranks and the likeliest tokens, as `sampling/logprobs.py` tells them, without waiting for the
device: how many tokens are told of is known on the host."""

import torch

from octavo.kernels.sampling.interface import Scores


def score_tokens(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> Scores:
    """As `Kernels.score`."""
    exact = make_finite(logits, torch.zeros_like(token_ids[:, 0]))
    chosen = exact.gather(1, token_ids)
    ranks = torch.stack([(exact > own).sum(dim=-1) + 1 for own in chosen.split(1, dim=1)], dim=1)
    tops = top_tokens(exact, min(num_top, exact.shape[1]))
    logprobs = exact.log_softmax(dim=-1)
    return Scores(token_ids, logprobs.gather(1, token_ids), ranks, tops, logprobs.gather(1, tops))


def make_finite(logits: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """A copy in float32 of which every row has a finite maximum: NaN is impossible, plus infinity the largest number,
    and a row that allows no token has its `fallback` alone.

    Args:
        logits: `[num_rows, vocab_size]`.
        fallback: `[num_rows]` int64; 0 is taken for one past the vocabulary.
    """
    exact = logits.to(torch.float32, copy=True).nan_to_num_(nan=-torch.inf, neginf=-torch.inf)
    token = torch.where(fallback < exact.shape[1], fallback, 0).unsqueeze(1)
    is_empty = exact.amax(dim=-1, keepdim=True) == -torch.inf
    return exact.scatter_(1, token, torch.where(is_empty, 0, exact.gather(1, token)))


def top_tokens(logits: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` highest logits of each row in falling order, of equals the lower ids.

    Args:
        logits: `[num_rows, vocab_size]` float32, none of them NaN.

    Returns:
        `[num_rows, count]` int64.
    """
    last = logits.shape[1] - 1
    # Adding 0 makes zeros of both signs one. The bits of negative numbers fall as the numbers rise.
    bits = (logits + 0.0).view(torch.int32)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (rising.to(torch.int64) << 32) | torch.arange(last, -1, -1, device=logits.device)
    return last - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)
