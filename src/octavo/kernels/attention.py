"""What attention is told: of its layer, and of the step."""

from dataclasses import dataclass
from typing import Any

import torch

from octavo.kernels.batch import RaggedBatch
from octavo.kernels.cache import KVCache
from octavo.layer_groups import FULL, LayerKind


@dataclass(frozen=True, slots=True)
class ForwardContext:
    """What all layers of a step share: a model hands it from its embedding to its last attention, unread."""

    cache: KVCache
    batch: RaggedBatch
    metadata: Any
    """What the backend made of the batch, once for all layers."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """One layer's attention. Head counts are this rank's."""

    layer: int
    """Index in the model; `CacheShape.layer_groups` has its place in the cache."""
    num_heads: int
    """A multiple of `num_kv_heads`; neighbours share a KV head."""
    num_kv_heads: int
    head_dim: int
    scale: float
    """Multiplies the scores."""
    kind: LayerKind = FULL
    """Which tokens of its row a token sees."""
    softcap: float | None = None
    """Scores become `softcap * tanh(score / softcap)` before masking."""
    query_norm: torch.Tensor | None = None
    """`[head_dim]`: the weight of an RMS norm of each query head, before rotation; None leaves them as they are."""
    key_norm: torch.Tensor | None = None
    """`[head_dim]`: the same for key heads."""
    norm_eps: float = 0.0
    """Of both norms."""
    cos_sin: torch.Tensor | None = None
    """`[max_positions, rotary_dim]`: the cosines of `rotary_dim / 2` frequencies, then their sines. None rotates
    nothing."""
