"""The flat batch of a step, in memory that is allocated once and used by one step after the other."""

import numpy as np
import torch

from octavo.execution.plan import Plan
from octavo.execution.row_tables import IntArray, RowTables
from octavo.kernels.interface import RaggedBatch


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
        self._make_room(self._size(max_tokens, max_rows))

    def stage(self, plan: Plan, table: RowTables) -> RaggedBatch:
        """The plan's new tokens as one flat list, with where each row's KV lives. It is valid until the next call.

        Args:
            table: the rows, as the plan has left them.
        """
        num_rows = len(plan.rows)
        num_new = np.array(plan.num_new, np.int64)
        num_tokens = int(num_new.sum())
        self._make_room(self._size(num_tokens, num_rows))
        parts = (num_tokens, num_tokens, self._num_groups * num_tokens, num_rows + 1, num_rows, num_rows)
        staged = self._host[: sum(parts)]
        token_ids, positions, flat_slots, query_starts, context_lens, rows = np.split(staged, np.cumsum(parts[:-1]))
        rows[:] = plan.rows
        context_lens[:] = plan.starts
        query_starts[0] = 0
        np.cumsum(num_new, out=query_starts[1:])
        if num_tokens == num_rows:
            row_of_token, positions[:] = rows, context_lens
        else:
            row_of_token = np.repeat(rows, num_new)
            np.add(np.arange(num_tokens), np.repeat(context_lens - query_starts[:-1], num_new), out=positions)
        context_lens += num_new
        token_ids[:] = table.tokens[row_of_token, positions]
        logical, offsets = np.divmod(positions, table.block_size)
        slots = flat_slots.reshape(self._num_groups, num_tokens)
        np.multiply(table.blocks[:, row_of_token, logical], table.block_size, out=slots)
        slots += offsets
        return self._on_device(parts, table)

    def _on_device(self, parts: tuple[int, ...], table: RowTables) -> RaggedBatch:
        batch = self._buffer[: sum(parts)].to(self._device, non_blocking=True)
        token_ids, positions, slots, query_starts, context_lens, rows = batch.split_with_sizes(parts)
        return RaggedBatch(
            token_ids=token_ids,
            positions=positions,
            slots=slots.view(self._num_groups, -1),
            query_starts=query_starts,
            context_lens=context_lens,
            tables=rows,
            block_tables=table.block_tables.to(self._device, non_blocking=True),
        )

    def _size(self, num_tokens: int, num_rows: int) -> int:
        return (2 + self._num_groups) * num_tokens + 3 * num_rows + 1

    def _make_room(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer = torch.empty(size, dtype=torch.int64, pin_memory=self._device.type == "cuda")
            self._host: IntArray = self._buffer.numpy()
