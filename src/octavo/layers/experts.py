"""A feed-forward of experts, of which each token goes through a few."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from octavo.kernels.operations import ActivationKind
from octavo.layers.build import ModelBuild
from octavo.layers.linear import MergedColumnParallelLinear, Part, RowParallelLinear
from octavo.layers.placement import Placements, prefixed, whole


class Experts(nn.Module):
    """Gated feed-forwards behind a router (Jiang et al., Mixtral of Experts, 2024).

    Each expert's inner width is split over the ranks; every rank holds the router.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        num_experts: int,
        num_chosen: int,
        build: ModelBuild,
        *,
        activation: ActivationKind = "silu",
    ) -> None:
        super().__init__()
        self.router = build.parameter(num_experts, hidden_size)
        self.experts = nn.ModuleList(Expert(hidden_size, inner_size, build) for _ in range(num_experts))
        self.num_chosen = num_chosen
        self.activation = activation
        self.kernels = build.kernels
        self.tensor_parallel = build.tensor_parallel

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[num_tokens, hidden_size]` -> the same shape, whole on every rank."""
        experts = list(cast(Iterable[Expert], self.experts))
        gate_up, down = [expert.gate_up.weight for expert in experts], [expert.down.weight for expert in experts]
        results = self.kernels.experts(hidden, self.router, gate_up, down, self.num_chosen, self.activation)
        return self.kernels.all_reduce(results, self.tensor_parallel)

    def placements(self) -> Placements:
        """`gate.weight`, the router, and each expert's: `experts.0.w1.weight`."""
        found = {"gate.weight": whole(self.router)}
        for index, expert in enumerate(cast(Iterable[Expert], self.experts)):
            found |= prefixed(f"experts.{index}.", expert.placements())
        return found


class Expert(nn.Module):
    """The weights of one: gate `w1`, up `w3` and down `w2`."""

    def __init__(self, hidden_size: int, inner_size: int, build: ModelBuild) -> None:
        super().__init__()
        parts = (Part("w1", inner_size), Part("w3", inner_size))
        self.gate_up = MergedColumnParallelLinear(hidden_size, parts, build, needs_one_form=True)
        self.down = RowParallelLinear(inner_size, hidden_size, build)

    def placements(self) -> Placements:
        """`w1.weight`, `w3.weight`, `w2.weight`."""
        return self.gate_up.placements() | prefixed("w2.", self.down.placements())
