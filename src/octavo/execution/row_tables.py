"""The runner's own record of every row: its tokens and its block table, kept up to date from the plans' deltas."""

import numpy as np
import numpy.typing as npt
import torch

from octavo.execution.plan import NO_ADAPTER, Plan

IntArray = npt.NDArray[np.int64]
IN_FLIGHT = -1
"""In place of a token that a device has sampled and the host has not seen."""


class RowTables:
    """Arrays indexed by row id. Memory that no row has written costs nothing.

    Args:
        num_rows: for which there is room at first; it is doubled when a larger id comes.
    """

    def __init__(self, max_model_len: int, block_size: int, num_groups: int = 1, num_rows: int = 16) -> None:
        self.block_size = block_size
        self.num_groups = num_groups
        self.adapters: dict[int, int] = {}
        """The adapters' numbers of those rows that have one."""
        self.edited: list[tuple[int, int, int]] = []
        """(row, first, end): the logical blocks that the last plan has given other physical blocks, in all groups."""
        self._allocate(num_rows, max_model_len, -(-max_model_len // block_size))

    def _allocate(self, num_rows: int, max_model_len: int, max_blocks: int) -> None:
        self.tokens = np.zeros((num_rows, max_model_len), np.int32)
        self.blocks = np.zeros((self.num_groups, num_rows, max_blocks), np.int64)
        """`[num_groups, num_rows, max_blocks]`: the physical block of each logical block."""
        self.block_tables = torch.from_numpy(self.blocks)
        """The same memory, for the kernels."""
        self._counts = np.zeros((4, num_rows), np.int64)
        self.num_tokens, self.num_prompt, self.num_blocks, self.revisions = self._counts
        """`revisions` rise with each change of a row's block table but at its end."""

    def _grow(self, num_rows: int) -> None:
        tokens, blocks, num_old = self.tokens, self.blocks, len(self.tokens)
        counts = self._counts
        self._allocate(num_rows, tokens.shape[1], blocks.shape[2])
        self._counts[:, :num_old] = counts
        for row in range(num_old):
            self.tokens[row, : self.num_tokens[row]] = tokens[row, : self.num_tokens[row]]
            self.blocks[:, row, : self.num_blocks[row]] = blocks[:, row, : self.num_blocks[row]]

    def apply(self, plan: Plan) -> None:
        """Follow a plan's changes of rows and tables, in the plan's order. A removed row is forgotten when its id comes
        again."""
        self.edited.clear()
        for row, num_blocks in plan.truncated:
            self._cut(row, num_blocks)
        for row in plan.released:
            self._cut(row, 0)
        for row in plan.removed:
            self.adapters.pop(row, None)
        new_rows = [new.row for new in plan.added] + [fork.row for fork in plan.forked]
        largest = max(new_rows, default=-1)
        if largest >= len(self.num_tokens):
            self._grow(max(2 * len(self.num_tokens), largest + 1))
        for new in plan.added:
            count = len(new.token_ids)
            self.tokens[new.row, :count] = new.token_ids
            self.num_tokens[new.row] = self.num_prompt[new.row] = count
            self._cut(new.row, 0)
            self._set_adapter(new.row, new.adapter)
        for fork in plan.forked:
            count = self.num_tokens[fork.parent]
            self.tokens[fork.row, :count] = self.tokens[fork.parent, :count]
            self.num_tokens[fork.row] = count
            self.num_prompt[fork.row] = self.num_prompt[fork.parent]
            self._cut(fork.row, 0)
            self._set_adapter(fork.row, self.adapters.get(fork.parent, NO_ADAPTER))
        for row, token in plan.chosen:
            self.tokens[row, self.num_tokens[row]] = token
            self.num_tokens[row] += 1
        for edit in plan.tables:
            table, count = self.blocks[:, edit.row], int(self.num_blocks[edit.row])
            num_new = len(edit.appended) // self.num_groups
            first = count - 1 if edit.replaced else count
            if edit.num_shared or edit.replaced:
                self.revisions[edit.row] += 1
            if edit.num_shared:
                first, count = 0, edit.num_shared
                table[:, :count] = self.blocks[:, edit.parent, :count]
            if edit.replaced:
                table[:, count - 1] = edit.replaced
            if num_new:
                table[:, count : count + num_new] = np.reshape(edit.appended, (self.num_groups, num_new))
            self.num_blocks[edit.row] = count + num_new
            self.edited.append((edit.row, first, count + num_new))
        for index, drafts in plan.drafts:
            row = plan.rows[index]
            count = self.num_tokens[row]
            self.tokens[row, count : count + len(drafts)] = drafts  # they count once they are accepted

    def _cut(self, row: int, num_blocks: int) -> None:
        """Keep only the first blocks of a row's table."""
        self.num_blocks[row] = num_blocks
        self.revisions[row] += 1

    def _set_adapter(self, row: int, adapter: int) -> None:
        self.adapters.pop(row, None)
        if adapter != NO_ADAPTER:
            self.adapters[row] = adapter

    def append(self, rows: IntArray, token_ids: IntArray, num_accepted: IntArray | int = 0) -> None:
        """Add one sampled token to each row, behind so many of its drafts."""
        self.num_tokens[rows] += num_accepted
        self.tokens[rows, self.num_tokens[rows]] = token_ids
        self.num_tokens[rows] += 1

    def append_in_flight(self, rows: IntArray) -> IntArray:
        """Add a token to each row that the host has not seen. Returns their places in the rows."""
        places = self.num_tokens[rows]
        self.append(rows, np.full(len(rows), IN_FLIGHT))
        return places

    def land(self, rows: IntArray, places: IntArray, token_ids: IntArray) -> None:
        """Tell which tokens those were."""
        self.tokens[rows, places] = token_ids

    def num_generated(self, rows: IntArray) -> IntArray:
        """Output tokens of some rows."""
        generated: IntArray = self.num_tokens[rows] - self.num_prompt[rows]
        return generated

    def token_ids(self, row: int, num_generated: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """A row's prompt and its first `num_generated` output tokens and drafts, valid until the next change."""
        num_prompt = self.num_prompt[row]
        return self.tokens[row, :num_prompt], self.tokens[row, num_prompt : num_prompt + num_generated]

    def output_token_ids(self, row: int) -> npt.NDArray[np.int32]:
        """A row's output tokens, valid until the next change."""
        return self.tokens[row, self.num_prompt[row] : self.num_tokens[row]]

    def all_token_ids(self, row: int) -> npt.NDArray[np.int32]:
        """A row's prompt and output tokens, valid until the next change."""
        return self.tokens[row, : self.num_tokens[row]]
