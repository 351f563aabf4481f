"""Quantizing to 4 bits in groups of inputs, while a model loads."""

import torch
from torch.nn import functional

from octavo.kernels.grouped import GroupedForm, GroupedRows, pack_nibbles

INT4 = GroupedForm(4, 32, has_minimums=True)
"""What `--quantization int4` makes."""
LARGEST_CODE = 15
SHRINKS = (1.0, 0.94, 0.88, 0.82)
"""Parts of the span between a group's smallest and largest number that are tried. What lies outside of one is clipped,
and all else has finer steps."""


def quantize_groups(rows: torch.Tensor, form: GroupedForm = INT4) -> GroupedRows:
    """Quantize rows to codes of 4 bits with a scale and a minimum for each group, both chosen by least squares.

    Of several spans the one is taken whose rounded numbers have the smallest squared error, large numbers weighing
    more; scale and minimum are then fitted to its codes.

    Args:
        rows: `[n, num_inputs]`, any floating dtype.
        form: of 4 bits with minimums.
    """
    num_inputs = rows.shape[1]
    wide = functional.pad(rows.to(torch.float32), (0, -num_inputs % form.group)).view(len(rows), -1, form.group)
    weights = wide.abs().add_(wide.square().mean(dim=2, keepdim=True).sqrt_())
    low, high = wide.amin(dim=2, keepdim=True), wide.amax(dim=2, keepdim=True)
    best_error = torch.full_like(low, torch.inf)
    best_codes = torch.zeros_like(wide)
    for shrink in SHRINKS:
        scale, start = (high - low) * (shrink / LARGEST_CODE), (high + low - shrink * (high - low)) / 2
        codes = ((wide - start) / torch.where(scale > 0, scale, 1)).round_().clamp_(0, LARGEST_CODE)
        error = (codes * scale + start).sub_(wide).square_().mul_(weights).sum(dim=2, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_codes = torch.where(is_better, codes, best_codes)
    scales, starts = _fitted(wide, best_codes, weights)
    codes = best_codes.to(torch.uint8).flatten(1)[:, :num_inputs]
    return GroupedRows(form, num_inputs, pack_nibbles(codes), scales, -starts)


def _fitted(wide: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale and the start, `[n, groups]` each, for which `codes * scale + start` is nearest to `[n, groups, group]`
    by weighted least squares."""
    total = weights.sum(dim=2)
    total = torch.where(total > 0, total, 1)
    weights = weights / total.unsqueeze(2)
    mean_code, mean = (weights * codes).sum(dim=2), (weights * wide).sum(dim=2)
    centred = codes - mean_code.unsqueeze(2)
    variance = (weights * centred.square()).sum(dim=2)
    covariance = (weights * centred * wide).sum(dim=2)
    scales = torch.where(variance > 0, covariance / torch.where(variance > 0, variance, 1), 0)
    return scales, mean - scales * mean_code
