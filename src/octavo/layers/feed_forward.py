"""The feed-forward half of a layer. Its inner width is split over the ranks."""

import torch
from torch import nn

from octavo.kernels.operations import ActivationKind
from octavo.layers.build import ModelBuild
from octavo.layers.linear import ColumnParallelLinear, MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.placement import Placements, prefixed


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer, GLU variants, 2020).

    `fused` names the checkpoint's tensor of gate and up below each other, where they are not a tensor each.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        build: ModelBuild,
        *,
        bias: bool = False,
        activation: ActivationKind = "silu",
        fused: str | None = None,
    ) -> None:
        super().__init__()
        parts = (Part("gate_proj", inner_size), Part("up_proj", inner_size))
        self.gate_up_proj = MergedColumnParallelLinear(hidden_size, parts, build, bias=bias, fused=fused)
        self.down_proj = RowParallelLinear(inner_size, hidden_size, build, bias=bias)
        self.activation = activation
        self.kernels = build.kernels

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        activated = self.kernels.activation_and_mul(self.gate_up_proj(hidden), self.activation)
        projected: torch.Tensor = self.down_proj(activated)
        return projected

    def placements(self) -> Placements:
        """By the projections' names: `gate_proj.weight`, `up_proj.weight`, `down_proj.weight`, and biases."""
        return {**self.gate_up_proj.placements(), **prefixed("down_proj.", self.down_proj.placements())}


class PlainFeedForward(nn.Module):
    """down(activation(up(x))), with biases or without (Vaswani et al., Attention is all you need, 2017)."""

    def __init__(
        self, hidden_size: int, inner_size: int, build: ModelBuild, *, activation: ActivationKind, bias: bool
    ) -> None:
        super().__init__()
        self.up_proj = ColumnParallelLinear(hidden_size, inner_size, build, bias=bias)
        self.down_proj = RowParallelLinear(inner_size, hidden_size, build, bias=bias)
        self.activation = activation
        self.kernels = build.kernels

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape."""
        projected: torch.Tensor = self.down_proj(self.kernels.activation(self.up_proj(hidden), self.activation))
        return projected

    def placements(self) -> Placements:
        """By the projections' names: `up_proj.weight`, `down_proj.weight`, and biases."""
        return prefixed("up_proj.", self.up_proj.placements()) | prefixed("down_proj.", self.down_proj.placements())
