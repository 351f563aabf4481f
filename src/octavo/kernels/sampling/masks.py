"""Which tokens a row may take at all, and biases: edits of logits in place.

Throughout, `logits` is `[num_rows, vocab_size]`, `rows` says which of its rows are edited, and `lists[i]` is what
`rows[i]` wants. Token ids past the vocabulary are ignored.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.interface import Indices, TokenIds
from octavo.kernels.sampling.ragged import flatten, known


def allow_only(logits: torch.Tensor, rows: Indices, lists: Sequence[TokenIds]) -> None:
    """Every token but those listed becomes impossible."""
    allowed = known(logits, *flatten(rows, lists))
    kept = logits[allowed]
    logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
    logits[allowed] = kept


def allow_bits(logits: torch.Tensor, rows: Indices, masks: Sequence[bytes]) -> None:
    """Every token whose bit is not set becomes impossible.

    A mask has its lowest bit first; tokens past its end have no bit set.
    """
    for row, mask in zip(rows.tolist(), masks, strict=True):
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), count=logits.shape[1], bitorder="little")
        logits[row].masked_fill_(torch.from_numpy(bits == 0).to(logits.device), -torch.inf)


def add_bias(
    logits: torch.Tensor, rows: Indices, lists: Sequence[TokenIds], biases: Sequence[NDArray[np.float64]]
) -> None:
    """Add `biases[i][j]` to the logit of `lists[i][j]`. The token ids of one row are distinct."""
    places, token_ids = flatten(rows, lists)
    added = np.concatenate([np.zeros(0), *biases])[token_ids < logits.shape[1]]
    logits[known(logits, places, token_ids)] += torch.from_numpy(added).to(logits)


def forbid(logits: torch.Tensor, rows: Indices, lists: Sequence[TokenIds]) -> None:
    """The tokens listed become impossible."""
    logits[known(logits, *flatten(rows, lists))] = -torch.inf
