"""Products with weights of 8 bits, and the loop over inputs that these and the experts' products share.

Each output is one chain of sums over pieces of its inputs, in their order, whatever the tile that it is computed in.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from octavo.kernels.quantized import Format, QuantizedWeight

PIECE_BYTES = 128
"""Of a row of inputs or weights, that a program takes at a time."""
GROUPS = 8
"""Groups of a row that one program quantizes."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a product is cut into programs."""

    rows: int
    """At least 64, so that Hopper multiplies numbers of 8 and 16 bits with one kind of instruction (`wgmma`), however
    many rows there are: others may add up in another order."""
    outputs: int
    num_warps: int
    num_stages: int
    """Pieces of inputs and weights on their way at once."""


FEW_ROWS = Tiling(64, 32, num_warps=4, num_stages=8)
"""Where weights are what takes time: many programs, each with much on its way."""
MANY_ROWS = Tiling(128, 128, num_warps=8, num_stages=3)
MULTIPROCESSORS = 132
"""Of an H100: large tiles are worth it where there is one for each."""


def choose_tiling(num_rows: int, num_outputs: int, dtype: torch.dtype, num_weights: int = 1) -> Tiling:
    """The tiling for products in `dtype` of rows that are shared out to `num_weights`. Results do not depend on it.

    Products in float32 have no matrix units: what matters is that they are right.
    """
    num_programs = triton.cdiv(num_rows, MANY_ROWS.rows) * triton.cdiv(num_outputs, MANY_ROWS.outputs)
    are_few = num_rows <= FEW_ROWS.rows * num_weights or num_programs < MULTIPROCESSORS
    return FEW_ROWS if are_few or dtype == torch.float32 else MANY_ROWS


def quantize(numbers: torch.Tensor, how: Format) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations in 8 bits, as `quantize_rows` makes them of each group of inputs.

    Args:
        numbers: `[num_rows, width]`, contiguous.

    Returns:
        `[num_rows, width]` of the format's dtype, and scales `[num_groups, num_rows]` float32.
    """
    num_rows, width = numbers.shape
    num_groups = triton.cdiv(width, how.group)
    values = torch.empty(numbers.shape, dtype=how.dtype, device=numbers.device)
    scales = torch.empty(num_groups, num_rows, dtype=torch.float32, device=numbers.device)
    _quantize[(num_rows, triton.cdiv(num_groups, GROUPS))](
        values,
        scales,
        numbers,
        num_rows,
        num_groups,
        width,
        LARGEST=how.largest,
        GROUP=how.group,
        PIECE=PIECE_BYTES,
        GROUPS=GROUPS,
        num_warps=4,
        enable_fp_fusion=False,  # a fused product and sum would round some halves otherwise than the reference
    )
    return values, scales


def linear(
    hidden: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None = None, *, tiling: Tiling | None = None
) -> torch.Tensor:
    """As `Operations.linear`, with a weight of 8 bits: two launches. In int8 the results are the reference's, bit for
    bit; in fp8 they differ by how a group's sum rounds.

    Args:
        hidden: contiguous.
        tiling: how to cut the product, where measurements ask for it.
    """
    values, scales = quantize(hidden, weight.format)
    num_rows, num_outputs = len(hidden), weight.shape[0]
    product = torch.empty(num_rows, num_outputs, dtype=hidden.dtype, device=hidden.device)
    tiling = tiling or choose_tiling(num_rows, num_outputs, weight.format.dtype)
    _linear[(triton.cdiv(num_rows, tiling.rows), triton.cdiv(num_outputs, tiling.outputs))](
        product,
        values,
        scales,
        weight.values,
        weight.scales,
        bias,
        num_rows,
        num_outputs,
        hidden.shape[1],
        GROUP=weight.format.group,
        PIECE=PIECE_BYTES,
        ROWS=tiling.rows,
        OUTPUTS=tiling.outputs,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        enable_fp_fusion=False,
    )
    return product


@triton.jit(do_not_specialize=["num_rows"])
def _quantize(
    values,
    scales,
    numbers,
    num_rows,
    num_groups,
    width,
    LARGEST: tl.constexpr,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Some groups of one row. The grid is (rows, tiles of groups)."""
    row = tl.program_id(0).to(tl.int64)
    groups = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    lanes = tl.arange(0, PIECE)[None, :]
    inputs = groups[:, None] * GROUP + lanes
    is_input = (lanes < GROUP) & (inputs < width)
    wide = tl.load(numbers + row * width + inputs, mask=is_input, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(wide), 1)
    inverse = tl.where(largest > 0, tl.div_rn(LARGEST, tl.where(largest > 0, largest, 1.0)), 0.0)
    scaled = wide * inverse[:, None]
    if values.dtype.element_ty == tl.int8:
        scaled = (scaled + 12582912.0) - 12582912.0  # 1.5 * 2^23: what is left is the nearest integer, halves to even
    scaled = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
    tl.store(values + row * width + inputs, scaled.to(values.dtype.element_ty), mask=is_input)
    # The maximum passes over what is not a number.
    is_broken = tl.max((wide != wide).to(tl.int32), 1) > 0
    scale = tl.where(is_broken, float("nan"), tl.div_rn(largest, LARGEST))
    tl.store(scales + groups.to(tl.int64) * num_rows + row, scale, mask=groups < num_groups)


@triton.jit(do_not_specialize=["num_rows"])
def _linear(
    product,
    values,
    value_scales,
    weight,
    weight_scales,
    bias,
    num_rows,
    num_outputs,
    width,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """A tile. The grid is (tiles of rows, tiles of outputs): programs that run together share weights. `bias` may be
    None."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outputs = tl.program_id(1).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row, is_output = rows < num_rows, outputs < num_outputs
    sums = tile_sums(
        values, rows, is_row, value_scales, num_rows, weight, outputs, is_output, width, GROUP, PIECE, ROWS, OUTPUTS
    )
    sums *= tl.load(weight_scales + outputs, mask=is_output, other=0.0)[None, :]
    dtype = product.dtype.element_ty
    if bias is not None:  # rounded before the sum with it, as in the reference
        added = tl.load(bias + outputs, mask=is_output, other=0.0).to(tl.float32)
        sums = sums.to(dtype).to(tl.float32) + added[None, :]
    places = product + rows[:, None] * num_outputs + outputs[None, :]
    tl.store(places, sums.to(dtype), mask=is_row[:, None] & is_output[None, :])


@triton.jit
def tile_sums(
    inputs,
    rows,
    is_row,
    row_scales,
    num_scales,
    weight,
    outputs,
    is_output,
    width,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Sums over all inputs, `[ROWS, OUTPUTS]` float32.

    `rows` of `inputs`, `[rows, width]`, with `outputs` of `weight`, `[outputs, width]`; both int64. Where numbers have
    8 bits `row_scales` is `[num_groups, num_scales]`: a group's sum is scaled, and groups add up in their order. It is
    None elsewhere. A piece of PIECE numbers has GROUP of them that count.
    """
    lanes = tl.arange(0, PIECE)
    own = inputs + rows[:, None] * width + lanes[None, :]
    other = weight + outputs[None, :] * width + lanes[:, None]
    sums = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, width, GROUP):
        is_input = (lanes < GROUP) & (start + lanes < width)
        left = tl.load(own + start, mask=is_row[:, None] & is_input[None, :], other=0.0)
        right = tl.load(other + start, mask=is_input[:, None] & is_output[None, :], other=0.0)
        if row_scales is None:
            sums = tl.dot(left, right, sums, input_precision="ieee")
        else:
            scale = tl.load(row_scales + start // GROUP * num_scales + rows, mask=is_row, other=0.0)
            sums += tl.dot(left, right).to(tl.float32) * scale[:, None]
    return sums
