"""Decode steps as CUDA graphs: the launches of a forward pass are captured once, and replayed by one call."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.reference import EagerForward
from octavo.kernels.triton.attention import CHUNK, cascades
from octavo.kernels.triton.layout import power_of_2

logger = logging.getLogger(__name__)

Pool = tuple[int, int]


class Graph(Protocol):
    """What has been captured."""

    def replay(self) -> None:
        """Do it again, with what lies at the same places by now."""
        ...

    def pool(self) -> Pool:
        """The memory that it works in."""
        ...


def capture(run: Callable[[], torch.Tensor], pool: Pool | None) -> tuple[Graph, torch.Tensor]:
    """Capture what a function launches. Nothing is computed.

    Args:
        pool: of another graph, which lives: a pool goes with the last graph that works in it. Graphs share it, as no
            two of them run at once.

    Returns:
        The graph; and what the function returned, which each replay writes anew.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with the device.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # type: ignore[arg-type]
        result = run()
    return graph, result


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Graph
    hidden: torch.Tensor
    """Where the hidden states come to lie."""


class CapturedForward:
    """A model whose decode steps are captured when they are first needed, for each number of rows and each power of two
    of context chunks, with and without rows that share much, and replayed from then on. Other steps run operation by
    operation.

    Before the first of a longer context the largest number of rows is captured: its memory in the pool has room for all
    others. Captured in rising sizes, each would take new memory. It is never replayed, but holds the pool where the
    others are dropped.

    Args:
        max_rows: of a step that is captured.
        padding_slot: where rows write whose states nobody wants.
    """

    def __init__(self, eager: EagerForward, max_rows: int, padding_slot: int) -> None:
        self._eager = eager
        self._most_rows = _padded(max_rows)
        self._padding_slot = padding_slot
        self._longest = 0
        """Of the contexts that the pool has room for."""
        self._largest: Graph | None = None
        """Holds the pool."""
        self._graphs: dict[tuple[int, int, bool], _Captured] = {}
        self._places: tuple[int, ...] = ()
        """Of the batch's arrays: graphs read them there."""

    def padded_rows(self, num_rows: int) -> int:
        """1, 2, 4, or a multiple of 8: few graphs serve all numbers."""
        return _padded(num_rows) if num_rows <= self._most_rows else num_rows

    def run(self, batch: RaggedBatch) -> None:
        """Replay the step, or compute it."""
        extent = batch.extent
        num_rows = len(batch.context_lens)
        if extent is None or extent.most_new > 1 or num_rows > self._most_rows or batch.adapters is not None:
            self._eager.run(batch)
            return
        longest = CHUNK * power_of_2(-(-extent.longest_context // CHUNK))
        self._forget_moved(batch)
        key = num_rows, longest, batch.shared is not None and cascades(extent)
        captured = self._graphs.get(key)
        if captured is not None:
            captured.graph.replay()
            self._eager.hidden = captured.hidden
            return
        batch = replace(batch, extent=BatchExtent(longest, 1, 1, extent.num_shared))
        self._eager.run(batch)  # so everything is compiled before it is captured
        self._capture(batch, key)

    def _capture(self, batch: RaggedBatch, key: tuple[int, int, bool]) -> None:
        hidden = self._eager.hidden
        try:
            if key[1] > self._longest:
                largest = self._largest_batch(batch)
                self._eager.run(largest)
                self._largest, _ = capture(lambda: self._compute(largest), self._pool)
                self._longest = key[1]
            graph, own = capture(lambda: self._compute(batch), self._pool)
            self._graphs[key] = _Captured(graph, own)
        except RuntimeError:
            logger.warning(
                "a decode step could not be captured in a CUDA graph: steps run operation by operation from now on, as "
                "with --cuda-graphs off",
                exc_info=True,
            )
            self._most_rows, self._largest = 0, None
            self._graphs.clear()
        self._eager.hidden = hidden

    @property
    def _pool(self) -> Pool | None:
        return None if self._largest is None else self._largest.pool()

    def _largest_batch(self, like: RaggedBatch) -> RaggedBatch:
        """As many rows of padding as a captured step may have, that may see as much as `like` may."""
        slots, num_rows = like.slots, self._most_rows
        zeros = slots.new_zeros(num_rows)
        return replace(
            like,
            token_ids=zeros,
            positions=zeros,
            slots=slots.new_full((len(slots), num_rows), self._padding_slot),
            query_starts=torch.arange(num_rows + 1, device=slots.device),
            context_lens=torch.ones_like(zeros),
            tables=zeros,
            shared=None,
        )

    def _compute(self, batch: RaggedBatch) -> torch.Tensor:
        self._eager.run(batch)
        return self._eager.hidden

    def _forget_moved(self, batch: RaggedBatch) -> None:
        """Drop all graphs where the arrays that they read lie elsewhere now."""
        places = (batch.token_ids.data_ptr(), batch.block_tables.data_ptr(), batch.block_tables.stride(1))
        if places != self._places:
            self._graphs.clear()
            self._places = places

    def logits(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, vocab_size]`."""
        return self._eager.logits(tokens)

    def most_likely(self, tokens: NDArray[np.int64], fallback: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """`[n]` indices of the step's tokens -> `[n]` int64, and `[n]` bool, the broken."""
        return self._eager.most_likely(tokens, fallback)

    def hidden_states(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[n]` indices of the step's tokens -> `[n, hidden_size]`."""
        return self._eager.hidden_states(tokens)

    def seconds_by_operation(self) -> dict[str, float]:
        """Not told."""
        return {}


def _padded(num_rows: int) -> int:
    return power_of_2(num_rows) if num_rows <= 8 else -(-num_rows // 8) * 8
