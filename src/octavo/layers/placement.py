"""How a checkpoint's tensors get into parameters: which part of a tensor goes where, row slice by row slice."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from octavo.kernels.quantized import QuantizedWeight, format_of, quantize_rows

QUANTIZED_AT_ONCE = 1 << 20
"""Elements, so that what is held beside the weights while loading stays small."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one checkpoint tensor goes: this rank's rows and columns of it, kept in consecutive rows of a parameter."""

    parameter: nn.Parameter
    shape: tuple[int, ...]
    """The checkpoint tensor's, whole: `[rows]` or `[rows, columns]`."""
    rows: range
    """Of the checkpoint tensor, those held here."""
    first_row: int = 0
    """The parameter's row that holds the first of `rows`."""
    columns: range | None = None
    """Of the checkpoint tensor, those held here; None is all."""
    scales: nn.Parameter | None = None
    """Where `parameter` has 8 bits: `[rows]`, its rows' scales."""
    offset: float = 0.0
    """Added to the values, in the parameter's dtype; not where it has 8 bits."""

    @property
    def num_elements(self) -> int:
        """How many of the parameter's elements this tensor fills."""
        return len(self.rows) * self.parameter[:1].numel()

    def load_rows(self, start_row: int, values: torch.Tensor) -> None:
        """Put consecutive rows of the checkpoint tensor in their place.

        Args:
            start_row: the checkpoint tensor's row that `values` starts with, within `rows`.
            values: `[n]` or `[n, columns]`, all columns, any dtype; converted to the parameter's while copying.
        """
        if self.columns is not None:
            values = values[:, self.columns.start : self.columns.stop]
        row = self.first_row + start_row - self.rows.start
        if self.scales is None:
            own_rows = self.parameter[row : row + len(values)].copy_(values)
            if self.offset:
                own_rows += self.offset
            return
        at_once = max(1, QUANTIZED_AT_ONCE // values.shape[1])
        for start in range(0, len(values), at_once):
            piece = values[start : start + at_once].to(self.parameter.device)  # a GPU quantizes faster
            own = slice(row + start, row + start + len(piece))
            self.parameter[own], self.scales[own] = quantize_rows(piece, format_of(self.parameter.dtype))


Placements = dict[str, list[Placement]]
"""Where each tensor of a checkpoint goes, by its Hugging Face name: to one place, or in parts to several."""


def place_weight(
    weight: nn.Parameter | QuantizedWeight,
    shape: tuple[int, ...],
    rows: range,
    first_row: int = 0,
    columns: range | None = None,
) -> Placement:
    """The placement of a matrix, quantized on its way where `weight` is."""
    if isinstance(weight, QuantizedWeight):
        return Placement(weight.values, shape, rows, first_row, columns, weight.scales)
    return Placement(weight, shape, rows, first_row, columns)


def whole(parameter: nn.Parameter, offset: float = 0.0) -> list[Placement]:
    """The placement of a tensor that every rank holds whole."""
    return [Placement(parameter, tuple(parameter.shape), range(parameter.shape[0]), offset=offset)]


def prefixed(prefix: str, placements: Mapping[str, list[Placement]]) -> Placements:
    """A layer's placements under their full checkpoint names."""
    return {prefix + name: placement for name, placement in placements.items()}
