"""The moves of whole blocks in a step: to the swap space, back from it, and copies within the cache."""

import numpy as np

from octavo.execution.device_output import DeviceOutput
from octavo.execution.device_queue import DeviceQueue
from octavo.execution.plan import Plan
from octavo.kernels.cache import KVCache
from octavo.kernels.interface import Kernels
from octavo.kernels.upload import upload


class BlockMoves:
    """Moves blocks as plans say.

    Args:
        swap_space: records of the same shape as the cache's, for the blocks of preempted requests.
    """

    def __init__(self, kernels: Kernels, cache: KVCache, swap_space: KVCache | None, queue: DeviceQueue) -> None:
        self._kernels = kernels
        self._cache = cache
        self._swap_space = swap_space
        self._queue = queue

    def start(self, plan: Plan, launched: DeviceOutput, before: DeviceOutput | None) -> None:
        """Start a step's moves, in the plan's order, and note when.

        Blocks are moved out beside the step before, if that is in flight and does not write to them. It may read those
        that others are moved into: these wait for its end.
        """
        if self._swap_space is not None and (plan.swap_out or plan.swap_in):
            early, late = _split(plan.swap_out, before)
            if before is not None and early:
                with before.readable.beside():
                    self._move(self._cache, self._swap_space, early, launched)
            launched.prepared = self._queue.mark()
            self._move(self._cache, self._swap_space, late, launched)
            self._move(self._swap_space, self._cache, plan.swap_in, launched)
            launched.moved = self._queue.mark()
        self._copy(self._cache, self._cache, plan.copies)
        launched.readable = self._queue.mark()

    def _move(
        self, source: KVCache, destination: KVCache, pairs: list[tuple[int, int]], launched: DeviceOutput
    ) -> None:
        if pairs:
            begin = self._queue.mark()
            self._copy(source, destination, pairs)
            launched.moves.append((begin, self._queue.mark()))

    def _copy(self, source: KVCache, destination: KVCache, pairs: list[tuple[int, int]]) -> None:
        """Copy blocks, all in one call: (source, destination) pairs."""
        if pairs:
            ids = upload(np.array(list(zip(*pairs, strict=True)), np.int64), self._cache.records.device)
            self._kernels.copy_blocks(source, destination, ids[0], ids[1])


def _split(
    pairs: list[tuple[int, int]], before: DeviceOutput | None
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The moves out that need not wait for the step before, and the others."""
    if before is None:
        return [], pairs
    written = set(before.written.ravel().tolist())
    return [pair for pair in pairs if pair[0] not in written], [pair for pair in pairs if pair[0] in written]
