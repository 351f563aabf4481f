"""Experts: products of rows that are grouped by expert, without a wait for the device.

A step of n tokens takes five launches, and two more where weights are quantized.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl

from octavo.errors import ModelError
from octavo.kernels.operations import ActivationKind, DenseWeight
from octavo.kernels.quantized import QuantizedWeight
from octavo.kernels.triton.activation import activate
from octavo.kernels.triton.products import PIECE_BYTES, Tiling, choose_tiling, quantize, tile_sums
from octavo.kernels.triton.routing import Tiles, group_pairs, route, sum_results

ALIGNMENT = 16
"""Elements: what is known of the places of experts' weights, so that they are read 16 bytes at a time."""


def experts(
    hidden: torch.Tensor,
    router: torch.Tensor,
    gate_up: Sequence[DenseWeight],
    down: Sequence[DenseWeight],
    num_chosen: int,
    kind: ActivationKind,
    *,
    tiling: Tiling | None = None,
) -> torch.Tensor:
    """As `Operations.experts`. A token's result depends on no other token, bit for bit. `hidden` is contiguous;
    `tiling` says how to cut the products, where measurements ask for it.

    A layer's first call makes a table of where its experts' weights are, which later calls read: it is not one that a
    CUDA graph captures.
    """
    routes = route(hidden, router, num_chosen)
    num_pairs, num_experts = len(hidden) * num_chosen, len(gate_up)
    stored = gate_up[0].format.dtype if isinstance(gate_up[0], QuantizedWeight) else gate_up[0].dtype
    tiling = tiling or choose_tiling(num_pairs, hidden.shape[1], stored, num_experts)
    tiles = group_pairs(routes, num_experts, tiling.rows)
    inner = torch.empty(num_pairs, down[0].shape[1], dtype=hidden.dtype, device=hidden.device)
    _multiply(inner, hidden, tiles, gate_up, tiling, pairs_a_row=num_chosen, gates=kind)
    results = torch.empty(num_pairs, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    _multiply(results, inner, tiles, down, tiling, pairs_a_row=1)
    return sum_results(results, routes)


def _multiply(
    product: torch.Tensor,
    rows: torch.Tensor,
    tiles: Tiles,
    weights: Sequence[DenseWeight],
    tiling: Tiling,
    *,
    pairs_a_row: int,
    gates: ActivationKind | None = None,
) -> None:
    """Multiply each pair's row with its expert's weight into `product`, `[num_pairs, width]`. With `gates` a weight has
    the gates' outputs and then as many others, and products of both are stored."""
    first = weights[0]
    values: torch.Tensor
    if isinstance(first, QuantizedWeight):
        inputs, input_scales = quantize(rows, first.format)
        values, scales = first.values, first.scales
        group = first.format.group
    else:
        inputs, input_scales, values, scales = rows, None, first, None
        group = PIECE_BYTES // first.dtype.itemsize
    num_outputs, width = first.shape
    _multiply_pairs[(len(tiles.experts), triton.cdiv(num_outputs, tiling.outputs))](
        product,
        inputs,
        input_scales,
        tiles.pairs,
        tiles.experts,
        values,
        scales,
        offsets(weights),
        len(weights),
        len(rows),
        num_outputs,
        width,
        PAIRS_A_ROW=pairs_a_row,
        KIND=gates,
        GROUP=group,
        PIECE=PIECE_BYTES // values.itemsize,
        ROWS=tiling.rows,
        OUTPUTS=tiling.outputs,
        num_warps=tiling.num_warps,
        num_stages=tiling.num_stages,
        enable_fp_fusion=False,  # as `products.linear`
    )


def offsets(weights: Sequence[DenseWeight]) -> torch.Tensor:
    """Where experts' weights are: `[2, num_experts]` int64, how many elements from the first one's, and the same of
    their scales where they have them. So each may have memory of its own, and none is copied.

    Raises:
        ModelError: they are not apart by a multiple of `ALIGNMENT`.
    """
    values = [weight.values if isinstance(weight, QuantizedWeight) else weight for weight in weights]
    scales = [weight.scales if isinstance(weight, QuantizedWeight) else values[0] for weight in weights]
    itemsizes = (values[0].itemsize, scales[0].itemsize)
    addresses = tuple(tuple(tensor.data_ptr() for tensor in each) for each in (values, scales))
    return _offsets(addresses, itemsizes, values[0].device)


@lru_cache(maxsize=4096)
def _offsets(addresses: tuple[tuple[int, ...], ...], itemsizes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    apart = [[address - each[0] for address in each] for each in addresses]
    steps = [ALIGNMENT * itemsize for itemsize in itemsizes]
    if any(number % step for each, step in zip(apart, steps, strict=True) for number in each):
        raise ModelError(f"experts' weights must lie a multiple of {ALIGNMENT} elements apart")
    table = torch.tensor(apart, dtype=torch.int64) // torch.tensor(itemsizes).unsqueeze(1)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


@triton.jit(do_not_specialize=["num_inputs"])
def _multiply_pairs(
    product,
    inputs,
    input_scales,
    tile_pairs,
    tile_experts,
    weights,
    weight_scales,
    offsets,
    num_experts,
    num_inputs,
    num_outputs,
    width,
    PAIRS_A_ROW: tl.constexpr,
    KIND: tl.constexpr,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """A tile of one expert's pairs by some outputs. The grid is (tiles of pairs, tiles of outputs): programs that run
    together share weights. Scales may be None. Where KIND is not None, lanes alternate between a gate and what it
    multiplies with, so that both are in one thread."""
    tile = tl.program_id(0)
    expert = tl.load(tile_experts + tile)
    if expert < 0:
        return
    pairs = tl.load(tile_pairs + tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    is_pair = pairs >= 0
    lanes = tl.program_id(1).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = lanes < num_outputs
    outputs = lanes
    if KIND is not None:
        outputs = lanes // 2 + lanes % 2 * (num_outputs // 2)
    weight = weights + tl.multiple_of(tl.load(offsets + expert), 16)
    sums = tile_sums(
        inputs,
        pairs // PAIRS_A_ROW,
        is_pair,
        input_scales,
        num_inputs,
        weight,
        outputs,
        is_output,
        width,
        GROUP,
        PIECE,
        ROWS,
        OUTPUTS,
    )
    if weight_scales is not None:
        own = weight_scales + tl.load(offsets + num_experts + expert)
        sums *= tl.load(own + outputs, mask=is_output, other=0.0)[None, :]
    dtype = product.dtype.element_ty
    if KIND is None:
        places = product + pairs[:, None] * num_outputs + lanes[None, :]
        tl.store(places, sums.to(dtype), mask=is_pair[:, None] & is_output[None, :])
    else:  # rounded as by the reference: sums, activations, products
        gates, others = tl.split(tl.reshape(sums.to(dtype).to(tl.float32), [ROWS, OUTPUTS // 2, 2]))
        results = activate(gates, KIND).to(dtype).to(tl.float32) * others
        half = num_outputs // 2
        columns = tl.program_id(1).to(tl.int64) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
        places = product + pairs[:, None] * half + columns[None, :]
        tl.store(places, results.to(dtype), mask=is_pair[:, None] & (columns < half)[None, :])
