"""Rows with a temperature: from logits, after all edits, to a token drawn for each."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.sampling.drawing import broken_rows, draw, make_finite
from octavo.kernels.sampling.interface import Indices, SamplingBatch
from octavo.kernels.sampling.philox import row_keys
from octavo.kernels.sampling.truncation import Cutoffs, truncate

DrawRows = Callable[[torch.Tensor, Indices, SamplingBatch], tuple[torch.Tensor, torch.Tensor]]
"""As `draw_rows`."""


def draw_rows(logits: torch.Tensor, rows: Indices, batch: SamplingBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each of `rows` of the logits, which stay as they are: any device, any floating dtype.

    Args:
        logits: `[n, vocab_size]`.
        rows: `[num_rows]`.
        batch: how these rows are sampled; their edits are made.

    Returns:
        `[num_rows]` int64; and `[num_rows]` bool, the broken rows.
    """
    own = torch.from_numpy(rows).to(logits.device)
    scores = logits.index_select(0, own).to(torch.promote_types(logits.dtype, torch.float32))
    broken = broken_rows(scores)
    maxima = make_finite(scores, torch.from_numpy(batch.fallback).to(logits.device))
    return _draw(scores.sub_(maxima), batch), broken


def keys_of(batch: SamplingBatch) -> NDArray[np.uint32]:
    """`[num_rows, 2]`: what each row's noise is a function of."""
    return row_keys(batch.parameters["seed"], batch.parameters["sequence_index"], batch.positions)


def _draw(scores: torch.Tensor, batch: SamplingBatch) -> torch.Tensor:
    """Draw from logits whose highest is 0 in each row, so that a small temperature makes them -inf but never NaN."""
    # A temperature that this dtype rounds to zero would divide 0 by 0.
    temperature = _column(batch, "temperature", scores).to(scores.dtype).clamp_(min=torch.finfo(scores.dtype).tiny)
    scores.div_(temperature.unsqueeze(1))
    probabilities = scores.softmax(dim=-1)
    keys = torch.from_numpy(keys_of(batch).view(np.int32)).to(scores.device)
    cutoffs = Cutoffs(*(_column(batch, name, scores) for name in Cutoffs._fields))
    token_ids = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    for group in truncate(probabilities, cutoffs):
        token_ids[group.rows] = draw(group.probabilities, group.token_ids, keys[group.rows])
    return token_ids


def _column(batch: SamplingBatch, name: str, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(batch.parameters[name].copy()).to(like.device)
