"""The weight of several projections of one input, where a checkpoint has not all of them in one form."""

from collections.abc import Sequence
from typing import overload

from torch import nn

from octavo.kernels.grouped import GroupedWeight
from octavo.kernels.quantized import QuantizedWeight

Part = nn.Parameter | QuantizedWeight | GroupedWeight


class WeightParts(nn.Module, Sequence[Part]):
    """Weights `[own outputs, in_features]` whose outputs lie side by side: what `Kernels.linear` takes."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self._count = len(parts)
        for index, part in enumerate(parts):
            setattr(self, f"part{index}", part)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Part: ...

    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...

    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        names = [f"part{number}" for number in range(self._count)][index]
        return getattr(self, names) if isinstance(names, str) else [getattr(self, name) for name in names]

    def holding(self, row: int) -> tuple[Part, int]:
        """The part that holds an output, and which of its own that is."""
        for part in self:
            if row < part.shape[0]:
                return part, row
            row -= part.shape[0]
        raise IndexError(f"there are {sum(part.shape[0] for part in self)} outputs")
