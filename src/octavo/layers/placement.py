"""How a checkpoint's tensors get into parameters: which part of a tensor goes where, row slice by row slice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from octavo.kernels.grouped import GroupedRows, GroupedWeight
from octavo.kernels.interface import Kernels
from octavo.kernels.quantized import QuantizedWeight
from octavo.layers.weight_parts import WeightParts

WIDENED_AT_ONCE = 1 << 20
"""Elements of rows in groups, so that what is held beside the weights while loading stays small."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one checkpoint tensor goes: this rank's rows and columns of it, kept in consecutive rows of a parameter or
    another weight."""

    weight: nn.Parameter | QuantizedWeight | GroupedWeight
    shape: tuple[int, ...]
    """The checkpoint tensor's, whole: `[rows]` or `[rows, columns]`."""
    rows: range
    """Of the checkpoint tensor, those held here."""
    first_row: int = 0
    """The weight's row that holds the first of `rows`."""
    columns: range | None = None
    """Of the checkpoint tensor, those held here; None is all."""
    is_matrix: bool = False
    """Whether products read it, so that it may be kept in fewer bits."""
    needs_one_form: bool = False
    """Whether all that is placed in the weight must have one form."""
    offset: float = 0.0
    """Added to the values, in the parameter's dtype; not where it has fewer bits."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the weight consists of; rows of it are rows of each."""
        return iter([self.weight]) if isinstance(self.weight, nn.Parameter) else self.weight.parameters()

    @property
    def num_bytes(self) -> int:
        """How much of the parameters this tensor fills."""
        return sum(len(self.rows) * parameter[:1].nbytes for parameter in self.parameters())

    def load_rows(self, start_row: int, values: torch.Tensor | GroupedRows, kernels: Kernels) -> None:
        """Put consecutive rows of the checkpoint tensor in their place, in the weight's form.

        Args:
            start_row: the checkpoint tensor's row that `values` starts with, within `rows`.
            values: `[n]` or `[n, columns]`, all columns, any dtype; or such rows in groups of inputs.
            kernels: what quantizes them, where the weight has fewer bits.
        """
        row = self.first_row + start_row - self.rows.start
        if isinstance(values, GroupedRows):
            if isinstance(self.weight, GroupedWeight) and self.weight.form == values.form:
                kernels.fill(self.weight, row, values if self.columns is None else values.columns(self.columns))
                return
            for first, piece in values.pieces(WIDENED_AT_ONCE):
                self.load_rows(start_row + first, piece.dequantized(), kernels)
            return
        if self.columns is not None:
            values = values[:, self.columns.start : self.columns.stop]
        if isinstance(self.weight, nn.Parameter):
            own_rows = self.weight[row : row + len(values)].copy_(values)
            if self.offset:
                own_rows += self.offset
        else:
            kernels.quantize_into(self.weight, row, values)


Placements = dict[str, list[Placement]]
"""Where each tensor of a checkpoint goes, by its Hugging Face name: to one place, or in parts to several."""


def place_weight(
    weight: nn.Parameter | QuantizedWeight | GroupedWeight | WeightParts,
    shape: tuple[int, ...],
    rows: range,
    first_row: int = 0,
    columns: range | None = None,
    *,
    needs_one_form: bool = False,
) -> Placement:
    """The placement of a matrix that products read or an embedding looks up, quantized on its way where `weight` is."""
    if isinstance(weight, WeightParts):
        weight, first_row = weight.holding(first_row)
    return Placement(weight, shape, rows, first_row, columns, is_matrix=True, needs_one_form=needs_one_form)


def whole(parameter: nn.Parameter, offset: float = 0.0) -> list[Placement]:
    """The placement of a tensor that every rank holds whole."""
    return [Placement(parameter, tuple(parameter.shape), range(parameter.shape[0]), offset=offset)]


def prefixed(prefix: str, placements: Mapping[str, list[Placement]]) -> Placements:
    """A layer's placements under their full checkpoint names."""
    return {prefix + name: placement for name, placement in placements.items()}
