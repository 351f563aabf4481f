"""How a checkpoint's tensors get into parameters: which part of a tensor goes where, row slice by row slice."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn


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
        self.parameter[row : row + values.shape[0]].copy_(values)


def whole(parameter: nn.Parameter) -> Placement:
    """The placement of a tensor that every rank holds whole."""
    return Placement(parameter, tuple(parameter.shape), range(parameter.shape[0]))


def prefixed(prefix: str, placements: Mapping[str, Placement]) -> dict[str, Placement]:
    """A layer's placements under their full checkpoint names."""
    return {prefix + name: placement for name, placement in placements.items()}
