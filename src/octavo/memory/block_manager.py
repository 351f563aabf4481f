"""Decides which physical blocks a sequence's tokens live in: allocation on demand, sharing, copy-on-write, pins,
swap. What it decides is returned as plain data."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Self

from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.ledger import BlockState, Ledger, Totals
from octavo.memory.swap_space import Move, transfer


class TableChange(NamedTuple):
    """What an append did to a table: `copied` is (source, destination) where the last block had to be copied, then
    blocks were appended."""

    copied: tuple[int, int] | None
    appended: list[int]


class BlockManager:
    """The block tables of all sequences over one pool (paper, sections 4.2 to 4.4).

    Every operation costs O(blocks it touches), never O(tokens). Tensors are never touched: the caller carries the
    changes to the device.
    """

    def __init__(self, num_blocks: int, block_size: int, *, num_swap_blocks: int = 0, block_bytes: int = 0) -> None:
        self.pool = BlockPool(num_blocks, block_size)
        self.swap = BlockPool(num_swap_blocks, block_size)
        """The swap space: a second pool, whose tables are those of preempted sequences."""
        self.block_size = block_size
        self.block_bytes = block_bytes
        self.pins = BlockTable(max_tokens=0)
        """Blocks that stay, whoever uses them."""
        self.totals = Totals()
        self._tables: dict[BlockTable, None] = {}

    def restarted(self) -> Self:
        """A manager of the same memory that knows nothing but the pins."""
        fresh = type(self)(
            self.pool.num_blocks,
            self.block_size,
            num_swap_blocks=self.swap.num_blocks,
            block_bytes=self.block_bytes,
        )
        fresh.pins, fresh.totals = self.pins, self.totals
        fresh.pool.reserve(set(self.pins.block_ids))
        for block in self.pins.block_ids:
            digest = self.pool.index.digest(block)
            if digest is not None:
                fresh.pool.index.add(block, digest)
        return fresh

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self.pool.num_used

    @property
    def num_pinned_blocks(self) -> int:
        return len(self.pins.block_ids)

    @property
    def tables(self) -> Iterable[BlockTable]:
        """The tables that hold blocks."""
        return self._tables.keys()

    def append(self, table: BlockTable, num_tokens: int) -> TableChange | None:
        """Give the next `num_tokens` tokens of a sequence their slots and count them as filled.

        Blocks are taken one at a time, as tokens need them. A partly filled last block that others share is copied
        first: no two sequences ever write one block. The last of its sharers to write keeps the original.

        Returns:
            The change of the table, or None where the tokens fit into the last block as it is.
        """
        if num_tokens == 0:
            return None
        pool = self.pool
        offset = table.num_tokens % self.block_size
        copied = (
            self._own_last_block(table, offset) if offset and pool.reference_counts[table.block_ids[-1]] > 1 else None
        )
        table.num_tokens += num_tokens
        room = self.block_size - offset if offset else 0
        if num_tokens <= room:
            pool.fill(table.block_ids[-1], num_tokens)
            return TableChange(copied, []) if copied else None
        return TableChange(copied, self._extend(table, num_tokens, room))

    def _extend(self, table: BlockTable, num_tokens: int, room: int) -> list[int]:
        """Fill the `room` slots left in the last block, then new blocks; returns these."""
        if not table.block_ids:
            self._tables[table] = None
        if room:
            self.pool.fill(table.block_ids[-1], room)
        appended = []
        for first in range(room, num_tokens, self.block_size):
            block = self.pool.allocate()
            self.pool.fill(block, min(self.block_size, num_tokens - first))
            appended.append(block)
        table.block_ids += appended
        return appended

    def _own_last_block(self, table: BlockTable, num_filled: int) -> tuple[int, int]:
        """Copy-on-write (paper, section 4.4): replace the shared last block by a copy of its filled slots."""
        source, destination = table.block_ids[-1], self.pool.allocate()
        self.pool.fill(destination, num_filled)
        self.pool.release(source)
        self.totals.num_copied_blocks += 1
        table.block_ids[-1] = destination
        return source, destination

    def share(self, parent: BlockTable, child: BlockTable, num_tokens: int) -> int:
        """Let the empty `child` hold the blocks of `parent`'s first `num_tokens` tokens. Returns how many blocks that
        is."""
        num_blocks = -(-num_tokens // self.block_size)
        child.block_ids = parent.block_ids[:num_blocks]
        child.num_tokens = num_tokens
        for block in child.block_ids:
            self.pool.share(block)
        if child.block_ids:
            self._tables[child] = None
        return num_blocks

    def adopt(self, table: BlockTable, block_ids: Sequence[int]) -> None:
        """Let the empty `table` begin with these full blocks: held ones, or free ones that the index has found."""
        if not block_ids:
            return
        for block in block_ids:
            self.pool.share(block)
        table.block_ids = list(block_ids)
        table.num_tokens = len(block_ids) * self.block_size
        self._tables[table] = None

    def pin(self, block_ids: Sequence[int]) -> None:
        """Keep these full blocks, which the index has found, for good."""
        for block in block_ids:
            if block not in self.pins.block_ids:
                self.pool.share(block)
                self.pins.block_ids.append(block)

    def free(self, table: BlockTable) -> None:
        """Let go of all of a table's blocks, the last one first; the table is empty afterwards."""
        for block in reversed(table.block_ids):
            self.pool.release(block)
        table.block_ids = []
        table.num_tokens = 0
        self._tables.pop(table, None)

    def swap_out(self, tables: Sequence[BlockTable]) -> tuple[list[BlockTable], list[Move]]:
        """Give tables copies in the swap space, and let go of all their blocks.

        Returns:
            The copies, and what has to be moved for them: (block of the pool, block of the swap space).
        """
        saved = [BlockTable(table.max_tokens) for table in tables]
        moves = transfer(zip(tables, saved, strict=True), self.pool, self.swap, {})
        for table in tables:
            self.free(table)
        self.totals.num_moved_blocks += len(moves)
        return saved, moves

    def swap_in(self, tables: Sequence[tuple[BlockTable, BlockTable]], found: Mapping[int, int]) -> list[Move]:
        """Give the second, empty table of each pair what the first one, of the swap space, holds; that is freed.

        Args:
            found: for blocks of the swap space, blocks of the pool that the index has found with the same content.

        Returns:
            What has to be moved: (block of the swap space, block of the pool).
        """
        for block in found.values():
            self.pool.share(block)  # so that none is given up for another
        moves = transfer(tables, self.swap, self.pool, dict(found))
        for block in found.values():
            self.pool.release(block)
        for saved, table in tables:
            self.drop_saved(saved)
            self._tables[table] = None
        self.totals.num_moved_blocks += len(moves)
        return moves

    def drop_saved(self, saved: BlockTable) -> None:
        """Let go of a table of the swap space."""
        for block in saved.block_ids:
            self.swap.release(block)
        saved.block_ids = []

    def block_map(self) -> list[BlockState]:
        """Every physical block's state, by block id: which slots hold token states and how many tables share them."""
        return [BlockState(*state) for state in zip(self.pool.reference_counts, self.pool.filled_slots, strict=True)]

    def ledger(self) -> Ledger:
        """The account of the pool's memory at this moment. Costs a look at each table's last block."""
        pool, reserved = self.pool, 0
        unfilled = {table.block_ids[-1]: table for table in self._tables if table.num_tokens % self.block_size}
        for block, table in unfilled.items():
            reserved += min(self.block_size - pool.filled_slots[block], table.max_tokens - table.num_tokens)
        return Ledger(
            num_blocks=pool.num_blocks,
            block_size=self.block_size,
            num_used_blocks=pool.num_used,
            num_cached_blocks=pool.num_cached,
            num_shared_blocks=pool.num_shared,
            num_unshared_blocks=pool.num_references - self.num_pinned_blocks,
            num_pinned_blocks=self.num_pinned_blocks,
            num_swap_blocks=self.swap.num_blocks,
            num_swapped_blocks=self.swap.num_used,
            block_bytes=self.block_bytes,
            totals=replace(self.totals),
            num_filled_slots=pool.num_filled_slots,
            num_reserved_slots=reserved,
        )
