"""Normalisation, joined with the residual sum before it. Every rank holds the whole weight."""

import torch
from torch import nn

from octavo.layers.build import ModelBuild
from octavo.layers.placement import Placements, whole


class RMSNorm(nn.Module):
    """Root-mean-square normalisation (Zhang and Sennrich, 2019) of the last dimension, of `size`.

    `offset` is what a checkpoint's weights are short of. Their sum is kept in float32 at the least, as it may not be a
    number of 16 bits.
    """

    def __init__(self, size: int, eps: float, build: ModelBuild, *, offset: float = 0.0) -> None:
        super().__init__()
        self.eps = eps
        self.offset = offset
        self.kernels = build.kernels
        self.weight = build.parameter(size, dtype=torch.promote_types(build.dtype, torch.float32) if offset else None)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, size]` twice -> (their sum normalised, their sum)."""
        return self.kernels.rms_norm(hidden, self.weight, self.eps, residual)

    def placements(self) -> Placements:
        """`weight`."""
        return {"weight": whole(self.weight, offset=self.offset)}


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016) of the last dimension, of `size`; `affine` says whether it has a weight."""

    def __init__(self, size: int, eps: float, build: ModelBuild, *, affine: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.kernels = build.kernels
        self.weight = build.parameter(size) if affine else None
        self.bias = build.parameter(size) if affine and bias else None

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """`[num_tokens, size]` twice -> (their sum normalised, their sum)."""
        return self.kernels.layer_norm(hidden, self.weight, self.bias, self.eps, residual)

    def placements(self) -> Placements:
        """`weight` and `bias`, those that there are."""
        own = {"weight": self.weight, "bias": self.bias}
        return {name: whole(parameter) for name, parameter in own.items() if parameter is not None}


Norm = RMSNorm | LayerNorm
