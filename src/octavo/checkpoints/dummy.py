"""Random weights for any config: the same for a seed, however the model is split."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from zlib import crc32

import torch

SLICE_ELEMENTS = 1 << 21
"""Generated at a time: 8 MiB."""
DEVIATION = 0.02


class DummyTensors:
    """Tensors of given shapes, made up when read; a `TensorSource`.

    Matrices and biases are normal with a standard deviation of 0.02, the weights of norms are 1.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
        self._shapes = dict(shapes)
        self._seed = seed

    def names(self) -> list[str]:
        """In the order given."""
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole tensor's."""
        return self._shapes[name]

    def file(self, name: str) -> str:
        """Where the tensor comes from, for errors."""
        return "the dummy weights"

    def form(self, name: str) -> None:
        """In groups is none."""

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        """`(first row, float32 values)` over `rows`."""
        num_rows, *rest = self._shapes[name]
        if not rest and name.endswith(".weight"):
            yield rows.start, torch.ones(len(rows))
            return
        # Pieces lie on a fixed grid and have each a seed, so that a rank's rows are the same whatever the others hold.
        step = max(1, SLICE_ELEMENTS // max(1, torch.Size(rest).numel()))
        starts = range(rows.start // step * step, rows.stop, step)
        num_threads = min(len(starts), torch.get_num_threads())
        with ThreadPoolExecutor(max(1, num_threads)) as threads:  # torch draws in one thread
            for group in (starts[first : first + num_threads] for first in range(0, len(starts), num_threads or 1)):
                drawn = threads.map(partial(self._drawn, name, num_rows, step), group)
                for start, piece in zip(group, drawn, strict=True):
                    piece.mul_(DEVIATION)
                    first, last = max(start, rows.start), min(start + step, rows.stop)
                    yield first, piece[first - start : last - start]

    def _drawn(self, name: str, num_rows: int, step: int, start: int) -> torch.Tensor:
        """Standard normal numbers of the piece that begins at a row."""
        generator = torch.Generator().manual_seed(crc32(f"{self._seed} {name} {start}".encode()))
        return torch.randn(min(step, num_rows - start), *self._shapes[name][1:], generator=generator)
