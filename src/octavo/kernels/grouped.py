"""Weights of 4 and 8 bits whose inputs come in groups, each with a scale and perhaps a minimum: what GGUF, AWQ, GPTQ
and other files of such bits all become, and the reference's product with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from octavo.kernels.quantized import Format, exact_products, quantize_rows

ACTIVATION_GROUP = 32
"""Inputs whose activations share a scale in a product with such a weight. With the 96 of int8's products a file's 4
bits would cost more than its own rounding."""
ACTIVATIONS = Format(torch.int8, 127, ACTIVATION_GROUP)
MIDDLE = 8
"""The 4-bit code that stands for 0 where there are neither minimums nor a table."""
LARGEST_EXPONENT = 14
"""A row's largest scale is brought to between 2**14 and 2**15: float16 then holds scales down to 2**-28 of it with all
their bits."""
LEAST_ROW_EXPONENT = -126
"""Of a row's scale, so that it is a normal number however small the row's numbers are."""


@dataclass(frozen=True, slots=True)
class GroupedForm:
    """How a weight's numbers are written."""

    bits: Literal[4, 8]
    group: int
    """Inputs that share a scale: 16, or a multiple of 32. The last group may have fewer."""
    has_minimums: bool = False
    table: tuple[int, ...] | None = None
    """What each of the 16 codes of 4 bits stands for, where that is not by its order: int8 numbers."""

    def numbers(self, codes: torch.Tensor, num_inputs: int) -> torch.Tensor:
        """What codes stand for: `[n, num_inputs]` int8."""
        if self.bits == 8:
            return codes
        unpacked = unpack_nibbles(codes, num_inputs)
        if self.table is not None:
            return torch.tensor(self.table, dtype=torch.int8, device=codes.device)[unpacked.int()]
        return unpacked.to(torch.int8) - (0 if self.has_minimums else MIDDLE)


class GroupedWeight(nn.Module):
    """A matrix `[out_features, in_features]` with a scale, and perhaps a minimum, for each group of a row's inputs:

        weight[o, i] = row_scales[o] * (scales[o, i // group] * number[o, i] - minimums[o, i // group])

    Of 8 bits a code is its number. Of 4 bits the number is the code's entry in the form's table; without a table, the
    code where there are minimums, and else the code less 8.

    `dtype` is what its rows are looked up as, where it is an embedding's.
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        form: GroupedForm,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.form = form
        self.dtype = dtype
        self.shape = torch.Size((out_features, in_features))
        num_groups = -(-in_features // form.group)
        if form.bits == 4:
            codes = torch.empty(out_features, -(-in_features // 2), dtype=torch.uint8, device=device)
        else:
            codes = torch.empty(out_features, in_features, dtype=torch.int8, device=device)
        self.codes = _unfilled(codes)
        """int8, or uint8 with input 2i in the low half of byte i and input 2i + 1 in the high one."""
        # Not `empty_like`: of a tensor on the meta device it imports sympy, for a second.
        scales, minimums = (torch.empty(out_features, num_groups, dtype=torch.float16, device=device) for _ in range(2))
        self.scales = _unfilled(scales)
        self.minimums = _unfilled(minimums) if form.has_minimums else None
        self.row_scales = _unfilled(torch.empty(out_features, dtype=torch.float32, device=device))
        """Powers of two, which bring a row's scales into float16's range."""

    def numbers(self) -> torch.Tensor:
        """What the codes stand for: `[out_features, in_features]` int8."""
        return self.form.numbers(self.codes, self.shape[1])

    def dequantized(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Some rows as numbers: `[n, in_features]` float32."""
        minimums = None if self.minimums is None else self.minimums[rows]
        own = GroupedRows(self.form, self.shape[1], self.codes[rows], self.scales[rows], minimums)
        return own.dequantized() * self.row_scales[rows].unsqueeze(1)

    def fill(self, first_row: int, rows: "GroupedRows") -> None:
        """Put rows of the same form and width in their place."""
        own = slice(first_row, first_row + len(rows.codes))
        self.codes[own] = rows.codes
        self.scales[own], minimums, self.row_scales[own] = scales_in_float16(rows.scales, rows.minimums)
        if self.minimums is not None and minimums is not None:
            self.minimums[own] = minimums


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """Some rows of such a matrix as a file has them, or as they were quantized, on their way to a weight."""

    form: GroupedForm
    num_inputs: int
    codes: torch.Tensor
    """As `GroupedWeight.codes`, `[n, ...]`."""
    scales: torch.Tensor
    """`[n, groups]`, of floating point."""
    minimums: torch.Tensor | None

    def dequantized(self) -> torch.Tensor:
        """As numbers: `[n, num_inputs]` float32."""
        group, num_groups = self.form.group, self.scales.shape[1]
        numbers = self.form.numbers(self.codes, self.num_inputs).to(torch.float32)
        numbers = functional.pad(numbers, (0, num_groups * group - self.num_inputs))
        groups = numbers.view(len(numbers), num_groups, group)
        groups *= self.scales.unsqueeze(2)
        if self.minimums is not None:
            groups -= self.minimums.unsqueeze(2)
        return numbers[:, : self.num_inputs]

    def pieces(self, num_elements: int) -> Iterator[tuple[int, "GroupedRows"]]:
        """`(first row, rows)`, about so many elements at a time."""
        at_once = max(1, num_elements // self.num_inputs)
        for first in range(0, len(self.codes), at_once):
            own = slice(first, first + at_once)
            minimums = None if self.minimums is None else self.minimums[own]
            yield first, GroupedRows(self.form, self.num_inputs, self.codes[own], self.scales[own], minimums)

    def columns(self, kept: range) -> "GroupedRows":
        """Some of the inputs, which begin and end where groups do."""
        group = self.form.group
        groups = slice(kept.start // group, -(-kept.stop // group))
        codes = slice(kept.start // 2, -(-kept.stop // 2)) if self.form.bits == 4 else slice(kept.start, kept.stop)
        minimums = None if self.minimums is None else self.minimums[:, groups]
        return GroupedRows(self.form, len(kept), self.codes[:, codes], self.scales[:, groups], minimums)


def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """`[n, width]` uint8 codes under 16 -> `[n, ceil(width / 2)]`, the first of two in the low half of their byte."""
    if codes.shape[1] % 2:
        codes = functional.pad(codes, (0, 1))
    return codes[:, ::2] | codes[:, 1::2] << 4


def unpack_nibbles(packed: torch.Tensor, width: int) -> torch.Tensor:
    """`[n, ceil(width / 2)]` bytes -> `[n, width]` uint8 codes under 16."""
    return torch.stack((packed & 15, packed >> 4), dim=2).flatten(1)[:, :width]


def scales_in_float16(
    scales: torch.Tensor, minimums: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """A weight's scales and minimums as it keeps them, rounded to float16 beside a power of two for each row.

    Args:
        scales, minimums: `[n, groups]` float32.

    Returns:
        Scales and minimums `[n, groups]` float16, and the rows' scales `[n]` float32.
    """
    largest = scales.abs().amax(dim=1)
    if minimums is not None:
        largest = largest.maximum(minimums.abs().amax(dim=1))
    _, exponents = torch.frexp(largest)  # largest is under 2**exponent
    exponents = (exponents - 1 - LARGEST_EXPONENT).clamp_min(LEAST_ROW_EXPONENT)
    row_scales = torch.where(largest > 0, torch.exp2(exponents.to(torch.float32)), 1.0)
    divided = (scales / row_scales.unsqueeze(1)).to(torch.float16)
    if minimums is None:
        return divided, None, row_scales
    return divided, (minimums / row_scales.unsqueeze(1)).to(torch.float16), row_scales


def grouped_product(hidden: torch.Tensor, weight: GroupedWeight) -> torch.Tensor:
    """`[num_tokens, in_features]` -> `[num_tokens, out_features]` float32.

    Activations are int8 with a scale for each 32 inputs. Sums are exact over those, or a group of 16, and add up in
    float32 in the order of the inputs.
    """
    step = min(weight.form.group, ACTIVATION_GROUP)
    numbers = weight.numbers()
    total = torch.zeros(len(hidden), weight.shape[0], device=hidden.device)
    for first in range(0, weight.shape[1], ACTIVATION_GROUP):
        values, value_scales = quantize_rows(hidden[:, first : first + ACTIVATION_GROUP], ACTIVATIONS)
        for start in range(first, min(first + ACTIVATION_GROUP, weight.shape[1]), step):
            own = values[:, start - first : start - first + step]
            sums = exact_products(own, numbers[:, start : start + step]).to(torch.float32)
            group = start // weight.form.group
            sums *= weight.scales[:, group].to(torch.float32)
            if weight.minimums is not None:
                own_sums = own.sum(dim=1, dtype=torch.float32).unsqueeze(1)
                sums -= own_sums * weight.minimums[:, group].to(torch.float32)
            total += sums * value_scales.unsqueeze(1)
    return total * weight.row_scales


def _unfilled(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
