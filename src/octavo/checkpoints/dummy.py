"""Random weights for any config: the same for a seed, however the model is split."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from zlib import crc32

import numpy as np
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

    def slices(self, name: str, rows: range) -> Iterator[tuple[int, torch.Tensor]]:
        """`(first row, float32 values)` over `rows`."""
        num_rows, *rest = self._shapes[name]
        if not rest and name.endswith(".weight"):
            yield rows.start, torch.ones(len(rows))
            return
        # Pieces lie on a fixed grid and have each a seed, so that a rank's rows are the same whatever the others hold.
        step = max(1, SLICE_ELEMENTS // max(1, torch.Size(rest).numel()))
        starts = range(rows.start // step * step, rows.stop, step)
        for start, piece in zip(starts, self._pieces(name, starts, (num_rows, *rest)), strict=True):
            first, last = max(start, rows.start), min(start + step, rows.stop)
            yield first, piece[first - start : last - start]

    def _pieces(self, name: str, starts: range, shape: tuple[int, ...]) -> Iterator[torch.Tensor]:
        """Pieces of a tensor, in order, drawn by as many threads as torch has: nothing else that a start does takes as
        long."""
        if len(starts) == 1:
            yield self._piece(name, starts[0], starts.step, shape)
            return
        num_threads = min(torch.get_num_threads(), len(starts))
        with ThreadPoolExecutor(num_threads) as threads:
            begun: deque[Future[torch.Tensor]] = deque()
            for start in starts:
                begun.append(threads.submit(self._piece, name, start, starts.step, shape))
                if len(begun) > num_threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    def _piece(self, name: str, start: int, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(crc32(f"{self._seed} {name} {start}".encode()))
        num_rows, *rest = shape
        piece = torch.randn(min(step, num_rows - start), *rest, generator=generator)
        piece.numpy()[...] *= np.float32(DEVIATION)  # torch would start threads for it, in each of these
        return piece
