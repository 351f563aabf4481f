"""Log-probabilities, ranks and the likeliest tokens, as `sampling/logprobs.py` tells them, without waiting for the
device: how many tokens are told of is known on the host."""

import torch
import triton
import triton.language as tl

from octavo.kernels.sampling.interface import Scores
from octavo.kernels.triton.logits_pieces import PIECE


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
        logits: `[num_rows, vocab_size]` float32, contiguous, none of them NaN. Takes twice their memory.

    Returns:
        `[num_rows, count]` int64.
    """
    num_rows, vocab_size = logits.shape
    if count == 0:
        return torch.empty((num_rows, 0), dtype=torch.int64, device=logits.device)
    keys = torch.empty((num_rows, vocab_size), dtype=torch.int64, device=logits.device)
    make_keys[(triton.cdiv(vocab_size, PIECE), num_rows)](keys, logits, vocab_size, PIECE=PIECE, num_warps=8)
    return vocab_size - 1 - (keys.topk(count, dim=-1).values & 0xFFFFFFFF)


@triton.jit
def make_keys(keys, logits, vocab_size, PIECE: tl.constexpr):
    """Integers in the order of logits, and of equals with the lowest token last: a logit in the upper half, a token in
    the lower. The grid is (pieces, rows)."""
    row = tl.program_id(1).to(tl.int64)
    tokens = tl.program_id(0) * PIECE + tl.arange(0, PIECE)
    numbers = tl.load(logits + row * vocab_size + tokens, mask=tokens < vocab_size, other=0.0)
    # Zeros of both signs are equal. The bits of negative numbers fall as the numbers rise.
    bits = tl.where(numbers == 0, 0.0, numbers).to(tl.int32, bitcast=True)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    own = (rising.to(tl.int64) << 32) | (vocab_size - 1 - tokens).to(tl.int64)
    tl.store(keys + row * vocab_size + tokens, own, mask=tokens < vocab_size)
