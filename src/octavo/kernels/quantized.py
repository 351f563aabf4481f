"""Numbers of 8 bits. Symmetric int8: weights with a scale for each output, activations with one for each group of a
token's, cached vectors with one each. fp8, without scales: cached vectors."""

import torch
from torch import nn

LARGEST = 127
"""Of an int8 value; -128 is not used, so that the range is symmetric."""
GROUP = 96
"""Inputs whose activations share a scale in a product, as in csrc/kernels.h. A token's activations have outliers, which
make a scale for all of them too coarse."""
LARGEST_FP8 = 448.0
"""Of a float8_e4m3fn value."""
EXACT_INPUTS = (1 << 24) // LARGEST**2
"""So many products of int8 values have a sum that float32 holds exactly, whatever the order."""


class QuantizedWeight(nn.Module):
    """A matrix `[out_features, in_features]` as int8 with a float32 scale for each output: weight = value * scale.

    `dtype` is what its rows are looked up as, where it is an embedding's.
    """

    def __init__(
        self, out_features: int, in_features: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        values = torch.empty(out_features, in_features, dtype=torch.int8, device=device)
        scales = torch.empty(out_features, dtype=torch.float32, device=device)
        self.values = nn.Parameter(values, requires_grad=False)
        self.scales = nn.Parameter(scales, requires_grad=False)
        self.dtype = dtype

    @property
    def shape(self) -> torch.Size:
        """Of the matrix: `(out_features, in_features)`."""
        return self.values.shape


def quantize_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row by its largest magnitude, rounding to nearest even.

    Args:
        rows: `[n, width]`, any floating dtype.

    Returns:
        Values `[n, width]` int8, and scales `[n]` float32: 0 where a row is.
    """
    wide = rows.to(torch.float32)
    largest = wide.abs().amax(dim=1)
    inverse = torch.where(largest > 0, LARGEST / largest, 0.0)
    values = (wide * inverse.unsqueeze(1)).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
    return values, largest / LARGEST


def to_fp8(numbers: torch.Tensor) -> torch.Tensor:
    """As float8_e4m3fn (Micikevicius et al., FP8 Formats for Deep Learning, 2022), rounded to nearest even. What is out
    of range becomes the largest; NaN stays NaN."""
    return numbers.clamp(-LARGEST_FP8, LARGEST_FP8).to(torch.float8_e4m3fn)


def exact_products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`[n, width]` @ `[m, width]`.T, both int8 within ±127, as exact float64 sums `[n, m]`.

    Float32 products of short pieces: torch's own int8 product saturates on processors without VNNI.
    """
    sums = torch.zeros(len(left), len(right), dtype=torch.float64, device=left.device)
    for own, other in zip(torch.split(left, EXACT_INPUTS, 1), torch.split(right, EXACT_INPUTS, 1), strict=True):
        sums += own.to(torch.float32) @ other.to(torch.float32).T
    return sums
