"""Lists of token ids of several rows, flattened, so that one tensor operation serves all rows."""

from collections.abc import Sequence

import numpy as np
import torch

from octavo.kernels.sampling.interface import Indices, TokenIds


def flatten(rows: Indices, lists: Sequence[TokenIds]) -> tuple[Indices, Indices]:
    """`lists[i]` belongs to `rows[i]`: the row and the token id of every entry, in order."""
    if not lists:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.repeat(rows, [len(token_ids) for token_ids in lists]), np.concatenate(lists).astype(np.int64, copy=False)


def known(logits: torch.Tensor, rows: Indices, token_ids: Indices) -> tuple[torch.Tensor, torch.Tensor]:
    """An index of `logits` `[num_rows, vocab_size]` for these entries, without those past the vocabulary."""
    inside = token_ids < logits.shape[1]
    return torch.from_numpy(rows[inside]).to(logits.device), torch.from_numpy(token_ids[inside]).to(logits.device)
