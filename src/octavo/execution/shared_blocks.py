"""How much of its context each row of a step has in the same blocks as the row before it."""

from collections.abc import Sequence

import numpy as np

from octavo.execution.row_tables import IntArray, RowTables
from octavo.kernels.batch import CONTEXT_CHUNK


class SharedBlocks:
    """Compares the block tables of rows that stand side by side and begin with the same block. What was found is kept
    until one of both tables changes otherwise than at its end.

    Args:
        groups: the layer groups whose tables are compared.
    """

    def __init__(self, tables: RowTables, groups: Sequence[int]) -> None:
        self._tables = tables
        self._groups = np.array(groups, np.int64)
        self._found = np.zeros((4, 0), np.int64)
        """For each row: the row before it, both rows' revisions, and their common first blocks."""

    def tokens(self, rows: IntArray, starts: IntArray, num_new: IntArray) -> IntArray:
        """`RaggedBatch.shared` of a step with so many new tokens of these rows, behind so many others."""
        tables = self._tables
        shared = np.zeros_like(rows)
        if not len(self._groups):
            return shared
        first = tables.blocks[self._groups[0], rows, 0]
        pairs = np.flatnonzero((first[1:] == first[:-1]) & (num_new[1:] == 1) & (num_new[:-1] == 1)) + 1
        if len(pairs):
            most = np.minimum(starts[pairs], starts[pairs - 1])
            common = self._common_blocks(rows[pairs], rows[pairs - 1]) * tables.block_size
            shared[pairs] = np.minimum(common, most) // CONTEXT_CHUNK * CONTEXT_CHUNK
        return shared

    def _common_blocks(self, rows: IntArray, before: IntArray) -> IntArray:
        """Of each row and the one before it."""
        revisions = self._tables.revisions
        if self._found.shape[1] < len(revisions):
            self._found = np.full((4, len(revisions)), -1, np.int64)
        keys = np.stack((before, revisions[rows], revisions[before]))
        stale = (self._found[:3, rows] != keys).any(axis=0)
        if stale.any():
            self._found[:3, rows] = keys
            self._found[3, rows[stale]] = self._compare(rows[stale], before[stale])
        counts: IntArray = self._found[3, rows]
        return counts

    def _compare(self, rows: IntArray, before: IntArray) -> IntArray:
        tables = self._tables
        both = np.minimum(tables.num_blocks[rows], tables.num_blocks[before])
        groups, logical = self._groups[:, np.newaxis, np.newaxis], np.arange(int(both.max()))
        own, other = (tables.blocks[groups, each[:, np.newaxis], logical] for each in (rows, before))
        differs = (own != other).any(axis=0) | (logical >= both[:, np.newaxis])
        first: IntArray = np.where(differs.any(axis=1), differs.argmax(axis=1), both)
        return first
