"""What a kernel backend offers, and the shapes it is handed. Layers and the model runner know backends only through
this."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The KV cache: `num_blocks` records, each a block's K and V for all layers (DESIGN: block-major memory)."""

    num_blocks: int
    num_layers: int
    block_size: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one record."""
        return 2 * self.num_layers * self.block_size * self.num_kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.num_blocks * self.block_bytes


@dataclass(frozen=True, slots=True)
class KVCache:
    """The one allocation that holds every block.

    `records` is `[num_blocks, num_layers, 2, block_size, num_kv_heads, head_dim]`: indexing the first dimension moves
    one contiguous piece.
    """

    shape: CacheShape
    records: torch.Tensor


@dataclass(frozen=True, slots=True)
class RaggedBatch:
    """The tokens of one step: a flat list, and for each row how many are new and where its KV lives.

    All tensors are on the cache's device. Row `r` owns tokens `query_starts[r]` to `query_starts[r + 1]`, which are the
    last `query_starts[r + 1] - query_starts[r]` of its `context_lens[r]` tokens; so prefill, chunked prefill and decode
    differ only in numbers.
    """

    token_ids: torch.Tensor
    """`[num_tokens]` int64."""
    positions: torch.Tensor
    """`[num_tokens]` int64: each token's position in its row, from 0."""
    slots: torch.Tensor
    """`[num_tokens]` int64: `physical block * block_size + offset`, where the token's K and V are written."""
    query_starts: torch.Tensor
    """`[num_rows + 1]` int64."""
    context_lens: torch.Tensor
    """`[num_rows]` int64: tokens whose KV the row can see once this step's are written."""
    block_tables: torch.Tensor
    """`[num_rows, max_blocks]` int64: physical block of each logical block; entries past a row's last block are
    arbitrary but valid ids."""


class Kernels(Protocol):
    """One device's operations. `kernels/reference.py` is the plain torch version that every other is tested against."""

    name: str

    def allocate_cache(self, shape: CacheShape, device: torch.device) -> KVCache:
        """A zeroed cache. On the CPU its pages are taken from the system when first written."""
        ...

    def prepare(self, batch: RaggedBatch, cache: KVCache) -> Any:
        """Work done once a step for all layers (grouping, masks); the result is passed to the two calls below as
        `step`."""
        ...

    def write_kv(self, cache: KVCache, layer: int, key: torch.Tensor, value: torch.Tensor, step: Any) -> None:
        """Write the new tokens' K and V (`[num_tokens, num_kv_heads, head_dim]`) into their slots."""
        ...

    def paged_attention(
        self,
        query: torch.Tensor,
        cache: KVCache,
        layer: int,
        step: Any,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> torch.Tensor:
        """Causal attention of the new tokens over their rows' blocks (paper, section 4.1, equation 4).

        Args:
            query: `[num_tokens, num_heads, head_dim]`; `num_heads` is a multiple of the cache's `num_kv_heads`,
                neighbours share a KV head.
            scale: multiplies the scores.
            window: a token sees itself and the `window - 1` tokens before it; None sees all.
            softcap: scores become `softcap * tanh(score / softcap)` before masking.

        Returns:
            `[num_tokens, num_heads, head_dim]`, the query's dtype. Sums are in float32, or float64 where the cache is.
        """
        ...

    def copy_blocks(self, cache: KVCache, sources: torch.Tensor, destinations: torch.Tensor) -> None:
        """Copy whole records (`[n]` int64 block ids each). No id is in both, none twice in `destinations`."""
        ...

    def rms_norm(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `residual` (if any) and normalise over the last dimension. Returns (normalised * weight, the sum before
        normalising)."""
        ...

    def rotary(
        self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotate the halves of each head (the Hugging Face convention) by its position.

        Args:
            query, key: `[num_tokens, heads, head_dim]`.
            cos_sin: `[max_positions, rotary_dim]`, cosines then sines, each of `rotary_dim / 2` frequencies; dimensions
                past `rotary_dim` pass through.
        """
        ...

    def silu_and_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, 2 * width]` -> `[num_tokens, width]`: silu(first half) * second half."""
        ...
