"""Self-attention: projections around the kernels' attention, with what layers of different models vary in."""

from dataclasses import dataclass

import torch
from torch import nn

from octavo.kernels.attention import AttentionSpec, ForwardContext
from octavo.layer_groups import FULL, LayerKind
from octavo.layers.build import ModelBuild
from octavo.layers.linear import MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.norm import RMSNorm
from octavo.layers.placement import Placements, prefixed
from octavo.layers.rotary import RotaryEmbedding


@dataclass(frozen=True, slots=True)
class Heads:
    """A model's attention heads, all ranks' together."""

    num_heads: int
    num_kv_heads: int
    """A divisor of `num_heads`: neighbours share a KV head (Ainslie et al., GQA, 2023)."""
    head_dim: int


class Attention(nn.Module):
    """Attention over the paged cache, its heads split over the ranks."""

    def __init__(
        self,
        index: int,
        hidden_size: int,
        heads: Heads,
        build: ModelBuild,
        *,
        rotary: RotaryEmbedding | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
        kind: LayerKind = FULL,
        head_norms: tuple[RMSNorm, RMSNorm] | None = None,
        fused: str | None = None,
    ) -> None:
        """Build the projections without weights.

        Args:
            index: the layer's, in the cache.
            rotary: the positions' table; None rotates nothing.
            scale: multiplies the scores; None is 1 / sqrt(head_dim).
            kind: which tokens of its row a token sees.
            head_norms: of each query head and of each key head, alike in their `eps`; `[head_dim]` each.
            fused: the checkpoint's tensor of queries, keys and values below each other; None where each has its own.

        Raises:
            ConfigError: the heads cannot be split over the tensor-parallel ranks.
        """
        super().__init__()
        width = heads.head_dim
        parts = (
            Part("q_proj", heads.num_heads, width),
            Part("k_proj", heads.num_kv_heads, width, replicate=True),
            Part("v_proj", heads.num_kv_heads, width, replicate=True),
        )
        self.qkv_proj = MergedColumnParallelLinear(hidden_size, parts, build, bias=qkv_bias, fused=fused)
        self.o_proj = RowParallelLinear(heads.num_heads * width, hidden_size, build, bias=out_bias)
        self.rotary = rotary
        self.kernels = build.kernels
        self.index = index
        self.head_dim = width
        self.scale = width**-0.5 if scale is None else scale
        self.kind = kind
        """What this layer reads of a sequence's KV."""
        norms: tuple[RMSNorm | None, RMSNorm | None] = head_norms or (None, None)
        self.q_norm, self.k_norm = norms

    @property
    def spec(self) -> AttentionSpec:
        """This layer's attention, with the table as it is now: the loader fills it after the layers are built."""
        num_heads, num_kv_heads, _ = (len(shard) for shard in self.qkv_proj.shards)
        return AttentionSpec(
            self.index,
            num_heads,
            num_kv_heads,
            self.head_dim,
            scale=self.scale,
            kind=self.kind,
            query_norm=None if self.q_norm is None else self.q_norm.weight,
            key_norm=None if self.k_norm is None else self.k_norm.weight,
            norm_eps=0.0 if self.q_norm is None else self.q_norm.eps,
            cos_sin=None if self.rotary is None else self.rotary.cos_sin,
        )

    def forward(self, hidden: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        attended = self.kernels.attention(self.qkv_proj(hidden), context, self.spec)
        projected: torch.Tensor = self.o_proj(attended)
        return projected

    def placements(self) -> Placements:
        """By the projections' and norms' names: `q_proj.weight` and so on, `o_proj.weight`, `q_norm.weight`."""
        found = {**self.qkv_proj.placements(), **prefixed("o_proj.", self.o_proj.placements())}
        if self.q_norm is not None and self.k_norm is not None:
            found |= prefixed("q_norm.", self.q_norm.placements()) | prefixed("k_norm.", self.k_norm.placements())
        return found
