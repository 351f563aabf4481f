"""Rows of a table by their ids, in one launch."""

import torch
import triton
import triton.language as tl

from octavo.kernels.operations import DenseWeight
from octavo.kernels.quantized import QuantizedWeight

BLOCK = 1024
"""Elements of a row that one program takes."""


def embedding(ids: torch.Tensor, weight: DenseWeight, scale: float = 1.0, *, first_id: int = 0) -> torch.Tensor:
    """As `Operations.embedding`. `ids` is contiguous."""
    rows, row_scales = (weight.values, weight.scales) if isinstance(weight, QuantizedWeight) else (weight, None)
    num_rows, width = rows.shape
    found = torch.empty(len(ids), width, dtype=weight.dtype, device=ids.device)
    _embedding[(len(ids), triton.cdiv(width, BLOCK))](
        found, ids, rows, row_scales, scale, first_id, num_rows, width, BLOCK=BLOCK, num_warps=4
    )
    return found


@triton.jit
def _embedding(found, ids, rows, row_scales, scale, first_id, num_rows, width, BLOCK: tl.constexpr):
    """A piece of one row; zeros where another rank has it. `row_scales` may be None."""
    token = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(ids + token) - first_id
    is_here = (row >= 0) & (row < num_rows)
    numbers = tl.load(rows + row * width + dims, mask=is_here & (dims < width), other=0.0).to(tl.float32)
    if row_scales is not None:  # rounded before the product with `scale`, as in the reference
        row_scale = tl.load(row_scales + row, mask=is_here, other=0.0)
        numbers = (numbers * row_scale).to(found.dtype.element_ty).to(tl.float32)
    tl.store(found + token * width + dims, (numbers * scale).to(found.dtype.element_ty), mask=dims < width)
