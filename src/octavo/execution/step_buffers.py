"""The flat batch of a step, in memory that is allocated once and used by one step after the other."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
import torch

from octavo.execution.device_queue import DeviceQueue, Marker
from octavo.execution.device_rows import DeviceRows
from octavo.execution.plan import NO_ADAPTER, Plan
from octavo.execution.row_tables import IN_FLIGHT, IntArray, RowTables
from octavo.execution.shared_blocks import SharedBlocks
from octavo.kernels.batch import BatchExtent, RaggedBatch
from octavo.kernels.upload import upload


class StagedBatch(NamedTuple):
    """A step's batch, and what the host knows of it."""

    batch: RaggedBatch
    ends: IntArray
    """`[num_rows]`: the place of each row's last token in the flat list."""
    written: IntArray
    """The physical blocks that the step writes to; one may be there several times."""


class _Layout(NamedTuple):
    """Where the arrays of a batch lie in the host's buffer: views of it, on the host and as tensors."""

    num_tokens: int
    num_rows: int
    token_ids: IntArray
    positions: IntArray
    slots: IntArray
    query_starts: IntArray
    context_lens: IntArray
    rows: IntArray
    shared: IntArray
    staged: torch.Tensor
    """All of them, one after the other."""
    sizes: list[int]
    """Their numbers of entries."""


class _HostBuffer:
    """Where one step's batch is put together: one piece, so that one copy brings all of it to a device."""

    def __init__(self, max_tokens: int, max_rows: int, num_groups: int, queue: DeviceQueue) -> None:
        self._num_groups = num_groups
        self._queue = queue
        self._buffer = torch.empty(0, dtype=torch.int64)
        self._layout = self._lay_out(max_tokens, max_rows)
        self._read: Marker | None = None
        """Behind the copy to the device."""

    def mark_read(self) -> None:
        """Note that the copy to the device has been queued."""
        self._read = self._queue.mark()

    def layout(self, num_tokens: int, num_rows: int) -> _Layout:
        """Views for a step of this size; a step as large as the one before, as most are in decode, takes its views.
        What was put together before may be overwritten: the device has read it, unless its step was never collected."""
        if self._read is not None and not self._read.is_over():
            self._read.wait()
        if (num_tokens, num_rows) != self._layout[:2]:
            self._layout = self._lay_out(num_tokens, num_rows)
        return self._layout

    def _lay_out(self, num_tokens: int, num_rows: int) -> _Layout:
        sizes = [num_tokens, num_tokens, self._num_groups * num_tokens, num_rows + 1, num_rows, num_rows, num_rows]
        if sum(sizes) > len(self._buffer):
            self._buffer = self._queue.host_buffer(sum(sizes))
        staged = self._buffer[: sum(sizes)]
        token_ids, positions, slots, query_starts, context_lens, rows, shared = (
            part.numpy() for part in staged.split_with_sizes(sizes)
        )
        slots = slots.reshape(self._num_groups, num_tokens)
        query_starts[0] = 0
        return _Layout(
            num_tokens, num_rows, token_ids, positions, slots, query_starts, context_lens, rows, shared, staged, sizes
        )


class StepBuffers:
    """Puts the batches of steps together, in turn in as many buffers as there are steps in flight, and brings them to
    the device: steps of one size find theirs at one place there.

    Args:
        table: the rows.
        on_device: what the device keeps of them; None where it works in the host's own memory.
        max_tokens, max_rows: of a step. One that has more makes room for itself.
        padding_block: where padding writes.
        full_groups: the layer groups that see everything. Rows are compared there, if a device is to know what they
            share.
    """

    def __init__(
        self,
        table: RowTables,
        on_device: DeviceRows | None,
        queue: DeviceQueue,
        device: torch.device,
        *,
        max_tokens: int,
        max_rows: int,
        steps_in_flight: int = 1,
        padding_block: int = 0,
        full_groups: Sequence[int] = (),
    ) -> None:
        self._table = table
        self._on_device = on_device
        self._device = device
        self._shared = SharedBlocks(table, full_groups) if on_device is not None and full_groups else None
        self._padding_slot = padding_block * table.block_size
        buffers = [_HostBuffer(max_tokens, max_rows, table.num_groups, queue) for _ in range(steps_in_flight)]
        # So many that none is waited for, unless steps have failed.
        self._buffers = cycle(buffers)
        largest = buffers[0].layout(max_tokens, max_rows).staged
        self._staged = torch.empty_like(largest if on_device is not None else largest[:0], device=device)

    def stage(self, plan: Plan, num_rows: int = 0) -> StagedBatch:
        """The plan's new tokens as one flat list, with where each row's KV lives. It is valid until the next call.

        Args:
            plan: what it says of rows has been applied to them.
            num_rows: to which the batch is padded by rows of one token; only where each row has one new token.
        """
        table = self._table
        rows, starts, num_new = np.array((plan.rows, plan.starts, plan.num_new), np.int64)
        num_tokens, num_own = sum(plan.num_new), len(plan.rows)
        num_padding = max(0, num_rows - num_own)
        buffer = next(self._buffers)
        to = buffer.layout(num_tokens + num_padding, num_own + num_padding)
        ends, positions, slots = to.query_starts[1 : num_own + 1], to.positions[:num_tokens], to.slots[:, :num_tokens]
        num_new.cumsum(out=ends)
        to.rows[:num_own] = rows
        if self._shared is not None:
            to.shared[:num_own] = self._shared.tokens(rows, starts, num_new)
        np.add(starts, num_new, out=to.context_lens[:num_own])
        if num_tokens == num_own:
            positions[:] = starts
        else:
            rows = rows.repeat(num_new)
            np.add(np.arange(num_tokens), (starts - to.query_starts[:num_own]).repeat(num_new), out=positions)
        to.token_ids[:num_tokens] = token_ids = table.tokens[rows, positions]
        in_flight = np.flatnonzero(token_ids == IN_FLIGHT)
        to.token_ids[in_flight] = -1 - rows[in_flight]
        logical, offsets = np.divmod(positions, table.block_size)
        written = table.blocks[:, rows, logical]
        np.multiply(written, table.block_size, out=slots)
        np.add(slots, offsets, out=slots)
        if num_padding:
            self._pad(to, num_own)
        num_shared = 0 if self._shared is None else int(to.shared.sum())
        extent = BatchExtent(int(to.context_lens.max()), max(plan.num_new), min(plan.num_new), num_shared)
        batch = self._bring(to, self._adapters(plan, num_padding), extent)
        if self._on_device is not None:
            buffer.mark_read()
            if len(in_flight):
                self._on_device.fill_in(batch.token_ids)
        return StagedBatch(batch, ends - 1, written)

    def _pad(self, to: _Layout, first: int) -> None:
        """Rows of one token that see themselves only: what they read and give means nothing."""
        to.token_ids[first:] = to.positions[first:] = to.rows[first:] = to.shared[first:] = 0
        to.slots[:, first:] = self._padding_slot
        to.context_lens[first:] = 1
        to.query_starts[first + 1 :] = np.arange(first + 1, len(to.query_starts))

    def _adapters(self, plan: Plan, num_padding: int) -> torch.Tensor | None:
        known = self._table.adapters
        if not known:
            return None
        own = [known.get(row, NO_ADAPTER) for row in plan.rows]
        return upload(np.array(own + [NO_ADAPTER] * num_padding, np.int64), self._device)

    def _bring(self, layout: _Layout, adapters: torch.Tensor | None, extent: BatchExtent) -> RaggedBatch:
        """The batch where the device reads it."""
        staged, block_tables = layout.staged, self._table.block_tables
        if self._on_device is not None:
            if len(staged) > len(self._staged):
                self._staged = torch.empty_like(staged, device=self._device)
            staged = self._staged[: len(staged)].copy_(staged, non_blocking=True)
            block_tables = self._on_device.block_tables
        token_ids, positions, slots, query_starts, context_lens, rows, shared = staged.split_with_sizes(layout.sizes)
        return RaggedBatch(
            token_ids=token_ids,
            positions=positions,
            slots=slots.view(self._table.num_groups, -1),
            query_starts=query_starts,
            context_lens=context_lens,
            tables=rows,
            block_tables=block_tables,
            adapters=adapters,
            shared=None if self._shared is None else shared,
            extent=extent,
        )
