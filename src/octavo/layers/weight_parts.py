"""The weight of several projections of one input, where a checkpoint has not all of them in one form."""

from collections.abc import Sequence
from typing import overload

from torch import nn

from octavo.kernels.grouped import GroupedWeight


class WeightParts(nn.Module, Sequence[GroupedWeight]):
    """Weights `[own outputs, in_features]` whose outputs lie side by side: what `Kernels.linear` takes."""

    def __init__(self, parts: Sequence[GroupedWeight]) -> None:
        super().__init__()
        for index, part in enumerate(parts):
            self.add_module(f"part{index}", part)

    def __len__(self) -> int:
        return len(self._modules)

    @overload
    def __getitem__(self, index: int) -> GroupedWeight: ...

    @overload
    def __getitem__(self, index: slice) -> list[GroupedWeight]: ...

    def __getitem__(self, index: int | slice) -> GroupedWeight | list[GroupedWeight]:
        return [part for part in self._modules.values() if isinstance(part, GroupedWeight)][index]

    def holding(self, row: int) -> tuple[GroupedWeight, int]:
        """The part that holds an output, and which of its own that is."""
        for part in self:
            if row < part.shape[0]:
                return part, row
            row -= part.shape[0]
        raise IndexError(f"there are {sum(part.shape[0] for part in self)} outputs")
