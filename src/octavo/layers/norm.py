"""Root-mean-square normalisation (Zhang and Sennrich, 2019), joined with the residual sum before it."""

import torch
from torch import nn

from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placement, whole


class RMSNorm(nn.Module):
    """Normalises the last dimension, of `size`; every rank holds the whole weight."""

    def __init__(self, size: int, eps: float, build: ModelBuild) -> None:
        super().__init__()
        self.eps = eps
        self.kernels = build.kernels
        self.weight = build.parameter(size)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, size]` twice -> (their sum normalised, their sum)."""
        return self.kernels.rms_norm(hidden, self.weight, self.eps, residual)

    def placements(self) -> dict[str, Placement]:
        """`weight`."""
        return {"weight": whole(self.weight)}
