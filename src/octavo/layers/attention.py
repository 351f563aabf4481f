"""Attention over the paged KV cache: one layer's share of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from octavo.kernels.interface import Kernels, KVCache, RaggedBatch


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """What all layers of a step share."""

    cache: KVCache
    batch: RaggedBatch
    prepared: Any
    """What the cache's kernels made of the batch: `kernels.prepare(batch, cache)`."""


class PagedAttention(nn.Module):
    """Writes the new tokens' K and V into their blocks, then attends over all of the row's (paper, section 4.1)."""

    def __init__(
        self,
        layer: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        kernels: Kernels,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        """`layer` is an index into the cache, head counts are this rank's; the rest as in `Kernels.paged_attention`."""
        super().__init__()
        self.layer = layer
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.kernels = kernels
        self.scale = scale
        self.window = window
        self.softcap = softcap

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, step: AttentionStep) -> torch.Tensor:
        """Query `[num_tokens, num_heads, head_dim]`, key and value with `num_kv_heads` -> the query's shape."""
        self.kernels.write_kv(step.cache, self.layer, key, value, step.prepared)
        return self.kernels.paged_attention(
            query, step.cache, self.layer, step.prepared, scale=self.scale, window=self.window, softcap=self.softcap
        )
