"""The feed-forward half of a layer."""

import torch
from torch import nn

from octavo.kernels.interface import ActivationKind
from octavo.layers.build import ModelBuild
from octavo.layers.linear import MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.placement import Placements, prefixed


class GatedFeedForward(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer, GLU variants, 2020), its inner width split over the ranks."""

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        build: ModelBuild,
        *,
        bias: bool = False,
        activation: ActivationKind = "silu",
    ) -> None:
        super().__init__()
        parts = (Part("gate_proj", inner_size), Part("up_proj", inner_size))
        self.gate_up_proj = MergedColumnParallelLinear(hidden_size, parts, build, bias=bias)
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
