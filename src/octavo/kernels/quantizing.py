"""Quantizing weights while a model loads: to 8 bits with a scale for each output, to 4 bits in groups of inputs."""

from typing import NamedTuple

import torch
from torch.nn import functional

from octavo.kernels.grouped import GroupedForm, GroupedRows, GroupedWeight, pack_nibbles
from octavo.kernels.quantized import QuantizedWeight, quantize_rows

INT4 = GroupedForm(4, 32, has_minimums=True)
"""What `--quantization int4` makes."""
LARGEST_CODE = 15
MIDDLE_CODE = LARGEST_CODE / 2
SHRINKS = (1.0, 0.94, 0.88, 0.82)
"""Parts of the span between a group's smallest and largest number that are tried. What lies outside of one is clipped,
and all else has finer steps."""
LEAST_VARIANCE = 1e-3
"""Of steps that are not all the same: one of them has a weight of a hundredth at least."""
QUANTIZED_AT_ONCE = 1 << 20
"""Elements, so that what is held beside the weights while loading stays small."""


def quantize_into(weight: QuantizedWeight | GroupedWeight, first_row: int, rows: torch.Tensor) -> None:
    """As `Kernels.quantize_into`."""
    device = next(weight.parameters()).device
    at_once = max(1, QUANTIZED_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), at_once):
        piece = rows[start : start + at_once].to(device)  # a GPU quantizes faster
        row = first_row + start
        if isinstance(weight, GroupedWeight):
            weight.fill(row, quantize_groups(piece, weight.form))
        else:
            own = slice(row, row + len(piece))
            weight.values[own], weight.scales[own] = quantize_rows(piece, weight.format)


def quantize_groups(rows: torch.Tensor, form: GroupedForm = INT4) -> GroupedRows:
    """Quantize rows to codes of 4 bits with a scale and a minimum for each group.

    Numbers are rounded to 16 equal steps over several spans, and scale and minimum fitted to each rounding by least
    squares, large numbers weighing more. The rounding with the smallest error is taken, after it was refined.

    Args:
        rows: `[n, num_inputs]`, any floating dtype.
        form: of 4 bits with minimums.
    """
    num_inputs = rows.shape[1]
    wide = functional.pad(rows.to(torch.float32), (0, -num_inputs % form.group)).view(len(rows), -1, form.group)
    unit = wide.abs().amax(dim=2, keepdim=True)  # of all that follows: so no square is too small or large
    wide = wide * _inverse(unit)
    weights = wide.abs() + wide.square().mean(dim=2, keepdim=True).sqrt_()
    weights *= _inverse(weights.sum(dim=2, keepdim=True))
    low, high = wide.amin(dim=2, keepdim=True), wide.amax(dim=2, keepdim=True)
    middle, span = (low + high) / 2, high - low
    wide = wide - middle
    best = _rounded(wide, weights, span / LARGEST_CODE)
    for shrink in SHRINKS[1:]:
        best = _better(best, _rounded(wide, weights, span * (shrink / LARGEST_CODE)))
    codes = (best.steps + MIDDLE_CODE).to(torch.uint8).flatten(1)[:, :num_inputs]
    scales, minimums = best.scales * unit, (best.scales * MIDDLE_CODE - best.offsets - middle) * unit
    return GroupedRows(form, num_inputs, pack_nibbles(codes), scales.squeeze(2), minimums.squeeze(2))


class _Rounding(NamedTuple):
    """Numbers `[n, groups, group]` as whole steps, and what fits these best: `steps * scales + offsets`."""

    steps: torch.Tensor
    """From the middle one: -7.5 to 7.5."""
    scales: torch.Tensor
    """`[n, groups, 1]`, as all that follow."""
    offsets: torch.Tensor
    errors: torch.Tensor
    """Squared and weighted, of what fits best."""


def _rounded(wide: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor) -> _Rounding:
    """Round to steps of some scales. The weights of a group have a sum of 1."""
    steps = (wide * _inverse(scales)).add_(MIDDLE_CODE).round_().clamp_(0, LARGEST_CODE).sub_(MIDDLE_CODE)
    mean_step, mean = (weights * steps).sum(dim=2, keepdim=True), (weights * wide).sum(dim=2, keepdim=True)
    spread, centred = wide - mean, steps - mean_step
    variance = (weights * centred.square()).sum(dim=2, keepdim=True)
    covariance = (weights * centred * spread).sum(dim=2, keepdim=True)
    fitted = torch.where(variance >= LEAST_VARIANCE, covariance / variance, 0)
    errors = (weights * spread.square()).sum(dim=2, keepdim=True) - fitted * covariance
    return _Rounding(steps, fitted, mean - fitted * mean_step, errors)


def _inverse(numbers: torch.Tensor) -> torch.Tensor:
    """Of numbers of 0 or more; 0 where they are nearly 0."""
    return torch.where(numbers >= torch.finfo(torch.float32).tiny, 1 / numbers, 0)


def _better(one: _Rounding, other: _Rounding) -> _Rounding:
    """Of each group the better one, the first where they are as good."""
    is_better = other.errors < one.errors
    return _Rounding(*(torch.where(is_better, new, old) for old, new in zip(one, other, strict=True)))
