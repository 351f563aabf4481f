"""Quantizing weights in C++: each row goes through the caches once, where torch passes over all of them dozens of
times."""

from typing import Any

import torch
from numpy.typing import NDArray

from octavo.kernels import _cpu
from octavo.kernels.grouped import GroupedRows, GroupedWeight
from octavo.kernels.quantized import INT8, QuantizedWeight
from octavo.kernels.quantizing import INT4, quantize_into
from octavo.kernels.recording import DATA_TYPES

QUANTIZED_AT_ONCE = 1 << 24
"""Elements of 4 bits, so that their scales in float32 and in float16 stay small."""


def quantize_into_in_cpp(
    instruction_set: str,
    threads: _cpu.ThreadPool,
    weight: QuantizedWeight | GroupedWeight,
    first_row: int,
    rows: torch.Tensor,
) -> None:
    """As `quantize_into`, which takes what is to become neither int8 nor `INT4`.

    Raises:
        ValueError: the rows don't fit into the weight.
    """
    if rows.shape[1] != weight.shape[1] or not 0 <= first_row <= weight.shape[0] - len(rows):
        raise ValueError(f"{list(rows.shape)} rows from {first_row} on do not fit into {list(weight.shape)}")
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        rows = rows.to(torch.float32)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    if isinstance(weight, GroupedWeight) and weight.form == INT4:
        at_once = max(1, QUANTIZED_AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), at_once):
            groups = _to_int4(instruction_set, threads, rows[start : start + at_once])
            fill_in_cpp(instruction_set, threads, weight, first_row + start, groups)
    elif isinstance(weight, QuantizedWeight) and weight.format == INT8:
        own = slice(first_row, first_row + len(rows))
        values, scales = weight.values[own], weight.scales[own]
        _cpu.quantize_to_int8(instruction_set, threads, _weight_rows(rows), values.data_ptr(), scales.data_ptr())
    else:
        quantize_into(weight, first_row, rows)


def fill_in_cpp(
    instruction_set: str, threads: _cpu.ThreadPool, weight: GroupedWeight, first_row: int, rows: GroupedRows
) -> None:
    """As `GroupedWeight.fill`, bit for bit, but for rows that have scales which are no number.

    Raises:
        ValueError: the rows don't fit into the weight.
    """
    own = slice(first_row, first_row + len(rows.codes))
    _cpu.fill_groups(
        instruction_set,
        threads,
        _array(rows.codes.view(torch.uint8)),
        _array(rows.scales.float()),
        None if rows.minimums is None else _array(rows.minimums.float()),
        weight.codes[own].view(torch.uint8).numpy(),
        weight.scales[own].view(torch.uint16).numpy(),
        None if weight.minimums is None else weight.minimums[own].view(torch.uint16).numpy(),
        weight.row_scales[own].numpy(),
    )


def _array(rows: torch.Tensor) -> NDArray[Any]:
    """With columns side by side, as files that are turned over have not."""
    array: NDArray[Any] = (rows if rows.stride(1) == 1 else rows.contiguous()).numpy()
    return array


def _to_int4(instruction_set: str, threads: _cpu.ThreadPool, rows: torch.Tensor) -> GroupedRows:
    num_rows, num_inputs = rows.shape
    codes = torch.empty(num_rows, -(-num_inputs // 2), dtype=torch.uint8)
    scales = torch.empty(num_rows, -(-num_inputs // INT4.group))
    minimums = torch.empty_like(scales)
    outputs = (codes.data_ptr(), scales.data_ptr(), minimums.data_ptr())
    _cpu.quantize_to_int4(instruction_set, threads, _weight_rows(rows), *outputs)
    return GroupedRows(INT4, num_inputs, codes, scales, minimums)


def _weight_rows(rows: torch.Tensor) -> _cpu.WeightRows:
    num_rows, num_inputs = rows.shape
    return _cpu.WeightRows(DATA_TYPES[rows.dtype], num_rows, num_inputs, rows.stride(0), rows.data_ptr())
