"""The flat batch of a step, in memory that is allocated once and used by one step after the other."""

from typing import NamedTuple

import numpy as np
import torch

from octavo.execution.plan import NO_ADAPTER, Plan
from octavo.execution.row_tables import IntArray, RowTables
from octavo.kernels.batch import BatchExtent, RaggedBatch


class StagedBatch(NamedTuple):
    """A step's batch, and what the host knows of it."""

    batch: RaggedBatch
    ends: IntArray
    """`[num_rows]`: the place of each row's last token in the flat list."""


class _Layout(NamedTuple):
    """Where the arrays of a batch lie in the buffer: views of it, on the host and as tensors."""

    num_tokens: int
    num_rows: int
    token_ids: IntArray
    positions: IntArray
    slots: IntArray
    query_starts: IntArray
    context_lens: IntArray
    rows: IntArray
    staged: torch.Tensor
    """All of them, one after the other."""
    sizes: list[int]
    """Their numbers of entries."""


class StepBuffers:
    """Where a step's batch is put together on the host; one buffer, so that one copy brings all of it to a device.

    Args:
        max_tokens, max_rows: of a step. One that has more makes room for itself.
        num_groups: layer groups.
    """

    def __init__(self, max_tokens: int, max_rows: int, num_groups: int, device: torch.device) -> None:
        self._num_groups = num_groups
        self._device = device
        self._buffer = torch.empty(0, dtype=torch.int64)
        self._layout = self._lay_out(max_tokens, max_rows)
        self._layout.query_starts[0] = 0

    def stage(self, plan: Plan, table: RowTables) -> StagedBatch:
        """The plan's new tokens as one flat list, with where each row's KV lives. It is valid until the next call.

        Args:
            table: the rows, as the plan has left them.
        """
        rows, starts, num_new = np.array((plan.rows, plan.starts, plan.num_new), np.int64)
        num_tokens, num_rows = sum(plan.num_new), len(plan.rows)
        to = self._layout
        if (num_tokens, num_rows) != (to.num_tokens, to.num_rows):
            to = self._layout = self._lay_out(num_tokens, num_rows)
            to.query_starts[0] = 0
        num_new.cumsum(out=to.query_starts[1:])
        to.rows[:] = rows
        np.add(starts, num_new, out=to.context_lens)
        if num_tokens == num_rows:
            to.positions[:] = starts
        else:
            rows = rows.repeat(num_new)
            np.add(np.arange(num_tokens), (starts - to.query_starts[:-1]).repeat(num_new), out=to.positions)
        to.token_ids[:] = table.tokens[rows, to.positions]
        logical, offsets = np.divmod(to.positions, table.block_size)
        np.multiply(table.blocks[:, rows, logical], table.block_size, out=to.slots)
        np.add(to.slots, offsets, out=to.slots)
        adapters = [table.adapters.get(row, NO_ADAPTER) for row in plan.rows] if table.adapters else None
        extent = BatchExtent(int(to.context_lens.max()), max(plan.num_new), min(plan.num_new))
        return StagedBatch(self._on_device(to, table, adapters, extent), to.query_starts[1:] - 1)

    def _on_device(
        self, layout: _Layout, table: RowTables, adapters: list[int] | None, extent: BatchExtent
    ) -> RaggedBatch:
        batch = layout.staged.to(self._device, non_blocking=True)
        token_ids, positions, slots, query_starts, context_lens, rows = batch.split_with_sizes(layout.sizes)
        return RaggedBatch(
            token_ids=token_ids,
            positions=positions,
            slots=slots.view(self._num_groups, -1),
            query_starts=query_starts,
            context_lens=context_lens,
            tables=rows,
            block_tables=table.block_tables.to(self._device, non_blocking=True),
            adapters=None if adapters is None else torch.tensor(adapters, device=self._device),
            extent=extent,
        )

    def _lay_out(self, num_tokens: int, num_rows: int) -> _Layout:
        """Views for a step of this size; a step as large as the one before, as most are in decode, takes its views."""
        sizes = [num_tokens, num_tokens, self._num_groups * num_tokens, num_rows + 1, num_rows, num_rows]
        if sum(sizes) > len(self._buffer):
            self._buffer = torch.empty(sum(sizes), dtype=torch.int64, pin_memory=self._device.type == "cuda")
        staged = self._buffer[: sum(sizes)]
        token_ids, positions, slots, query_starts, context_lens, rows = (
            part.numpy() for part in staged.split_with_sizes(sizes)
        )
        slots = slots.reshape(self._num_groups, num_tokens)
        return _Layout(
            num_tokens, num_rows, token_ids, positions, slots, query_starts, context_lens, rows, staged, sizes
        )
