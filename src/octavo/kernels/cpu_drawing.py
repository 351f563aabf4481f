"""Drawing tokens in C++, one row after another in the caches: of a whole vocabulary torch makes a dozen passes."""

import numpy as np
import torch

from octavo.kernels import _cpu
from octavo.kernels.sampling.interface import Indices, SamplingBatch
from octavo.kernels.sampling.random_rows import draw_rows, keys_of

_TEMPERATURES = np.finfo(np.float32)


def draw_rows_in_cpp(
    instruction_set: str, threads: _cpu.ThreadPool, logits: torch.Tensor, rows: Indices, batch: SamplingBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `draw_rows`, which takes the rows without a finite maximum, and logits that are not float32."""
    if logits.dtype != torch.float32:
        return draw_rows(logits, rows, batch)
    own = batch.parameters
    token_ids = np.empty(len(rows), np.int64)
    _cpu.draw_tokens(
        instruction_set,
        threads,
        logits.numpy(),
        rows,
        own["temperature"].clip(_TEMPERATURES.tiny, _TEMPERATURES.max).astype(np.float32),
        own["top_k"].copy(),
        own["top_p"].copy(),
        own["min_p"].copy(),
        keys_of(batch),
        token_ids,
    )
    is_broken = token_ids < 0
    if is_broken.any():
        broken = np.flatnonzero(is_broken)
        token_ids[broken] = draw_rows(logits, rows[broken], batch.at(broken))[0].numpy()
    return torch.from_numpy(token_ids), torch.from_numpy(is_broken)
