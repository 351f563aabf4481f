"""The likeliest next tokens of beams."""

from collections.abc import Sequence

import torch

from octavo.outputs import Candidates
from octavo.sampling.logprobs import token_logprobs, top_tokens


def top_candidates(logprobs: torch.Tensor, counts: Sequence[int]) -> list[Candidates]:
    """The `counts[i]` most likely tokens of row i in falling order, equals by their id; without those at -inf.

    Args:
        logprobs: `[num_rows, vocab_size]`, log-probabilities, bias and masks applied.
        counts: `[num_rows]`; past the vocabulary is all of it.
    """
    token_ids = top_tokens(logprobs, min(max(counts), logprobs.shape[1]))
    values = logprobs.gather(1, token_ids)
    num_possible = (values > -torch.inf).sum(dim=-1)
    return [
        Candidates(own_ids[: min(count, possible)], own_values[: min(count, possible)])
        for own_ids, own_values, count, possible in zip(
            token_ids.tolist(), values.tolist(), counts, num_possible.tolist(), strict=True
        )
    ]


def tell_logprobs(logits: torch.Tensor, candidates: Candidates, num_top: int) -> Candidates:
    """The candidates with what to tell of each.

    Args:
        logits: `[vocab_size]`, one row as the model gave it.
        num_top: the most likely tokens to tell of beside each.
    """
    token_ids = torch.tensor(candidates.token_ids, dtype=torch.int64, device=logits.device)
    told = token_logprobs(logits.expand(len(token_ids), -1), token_ids, [num_top] * len(token_ids))
    return Candidates(candidates.token_ids, candidates.logprobs, told)
