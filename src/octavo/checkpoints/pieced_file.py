"""A file that may be stored cut into pieces, read as if it were whole. Torch-free."""

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class PiecedFile:
    """A file's bytes in one file, or in several to be put one after the other: packages have a limit on their size."""

    pieces: tuple[Path, ...]
    ends: tuple[int, ...] = field(init=False)
    """Where each piece ends, in bytes from the start of the first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", tuple(accumulate(piece.stat().st_size for piece in self.pieces)))

    def __str__(self) -> str:
        return str(self.pieces[0])

    @property
    def num_bytes(self) -> int:
        """Of all pieces together."""
        return self.ends[-1]

    def read(self, start: int, stop: int) -> Bytes:
        """The bytes of a range: memory-mapped, and copied only where it reaches over more than one piece."""
        parts = []
        for piece, begin, end in zip(self.pieces, (0, *self.ends), self.ends, strict=False):
            first, last = max(start, begin), min(stop, end)
            if first < last:
                parts.append(np.memmap(piece, np.uint8, "r", first - begin, (last - first,)))
        return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])
