"""Weights and activations in 8 bits: weights with a scale for each output, activations with one for each group of a
token's inputs."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Format:
    """Numbers of 8 bits, which times a scale stand for others."""

    dtype: torch.dtype
    largest: float
    """The largest magnitude in use; the other end is its negative."""
    group: int
    """Inputs whose activations share a scale in a product. A token's activations have outliers, which make a scale for
    all of them too coarse."""


INT8 = Format(torch.int8, 127, 96)
"""Group as in csrc/kernels.h."""
FP8 = Format(torch.float8_e4m3fn, 448, 128)
"""Micikevicius et al., FP8 formats for deep learning, 2022."""
FORMATS = {"int8": INT8, "fp8": FP8}
"""By the names of `--quantization`."""
EXACT_INPUTS = (1 << 24) // 127**2
"""So many products of int8 values have a sum that float32 holds exactly, whatever the order."""


def format_of(dtype: torch.dtype) -> Format:
    """The format whose numbers are stored as `dtype`."""
    return next(how for how in FORMATS.values() if how.dtype == dtype)


class QuantizedWeight(nn.Module):
    """A matrix `[out_features, in_features]` in 8 bits with a float32 scale for each output: weight = value * scale.

    `dtype` is what its rows are looked up as, where it is an embedding's.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        how: Format = INT8,
    ) -> None:
        super().__init__()
        values = torch.empty(out_features, in_features, dtype=how.dtype, device=device)
        scales = torch.empty(out_features, dtype=torch.float32, device=device)
        self.values = nn.Parameter(values, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.dtype = dtype
        self.format = how

    @property
    def shape(self) -> torch.Size:
        """Of the matrix: `(out_features, in_features)`."""
        return self.values.shape


def quantize_rows(rows: torch.Tensor, how: Format = INT8) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row by its largest magnitude, rounding to nearest even.

    Args:
        rows: `[n, width]`, any floating dtype.

    Returns:
        Values `[n, width]` of the format's dtype, and scales `[n]` float32: 0 where a row is.
    """
    wide = rows.to(torch.float32)
    largest = wide.abs().amax(dim=1)
    # A quotient, not 127 times an inverse, which is what torch makes of a number over a tensor; finite where a row is
    # nearly 0.
    quotient = torch.full_like(largest, how.largest).div_(largest).clamp_(max=torch.finfo(torch.float32).max)
    inverse = torch.where(largest > 0, quotient, 0.0)
    scaled = wide * inverse.unsqueeze(1)
    if not how.dtype.is_floating_point:
        scaled = scaled.round_()
    return scaled.clamp_(-how.largest, how.largest).to(how.dtype), largest / how.largest


def to_fp8(numbers: torch.Tensor) -> torch.Tensor:
    """As they are, without a scale, rounded to nearest even. What is out of range becomes the largest; NaN stays
    NaN."""
    return numbers.clamp(-FP8.largest, FP8.largest).to(FP8.dtype)


def exact_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`[n, width]` @ `[m, width]`.T, both int8 within ±127, as exact float64 sums `[n, m]`; of fp8 values sums are as
    exact as float32's.

    Float32 products of short pieces: torch's own int8 product saturates on processors without VNNI.
    """
    sums = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for own, other in zip(torch.split(left, EXACT_INPUTS, 1), torch.split(right, EXACT_INPUTS, 1), strict=True):
        sums += own.to(torch.float32) @ other.to(torch.float32).T
    return sums
