"""The paged manager: decides which physical blocks a sequence's tokens live in, by allocation on demand, sharing and
copy-on-write. What it decides is returned as plain data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from octavo.layer_groups import LayerKind
from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.demand import BlockDemand
from octavo.memory.group_accounts import group_accounts
from octavo.memory.ledger import Ledger, Totals
from octavo.memory.manager import Fork, TableChange
from octavo.memory.prefix_lookup import Names, PrefixHit, find_prefix
from octavo.memory.swap_space import Move, SwapSpace


class PagedManager:
    """The block tables of all sequences over one pool (paper, sections 4.2 to 4.4).

    Every operation costs O(blocks it touches), never O(tokens). Tensors are never touched: the caller carries the
    changes to the device.
    """

    def __init__(
        self,
        num_blocks: int,
        demand: BlockDemand,
        *,
        num_swap_blocks: int = 0,
        block_bytes: int = 0,
    ) -> None:
        self.demand = demand
        self.layer_groups = layer_groups = demand.layer_groups
        self.num_groups = len(layer_groups.groups)
        self.num_blocks = num_blocks
        self.block_size = demand.block_size
        self.block_bytes = block_bytes
        self.pool = BlockPool(num_blocks, self.num_groups)
        self.swap = SwapSpace(num_swap_blocks, self.num_groups)
        self.pins: dict[int, int] = {}
        """Blocks that stay, whoever uses them, and the layer group of each."""
        self.totals = Totals()
        self._tables: dict[BlockTable, None] = {}
        windowed: dict[LayerKind, list[int]] = {}
        for group, kind in enumerate(layer_groups.kinds):
            if kind.most_seen is not None:
                windowed.setdefault(kind, []).append(group)
        self._windowed = list(windowed.items())
        """The window groups of each kind: they let go of the same logical blocks."""
        self.forks_copy = False

    def restart(self) -> None:
        """Forget everything but the pins."""
        index = self.pool.index
        self.pool = BlockPool(self.num_blocks, self.num_groups)
        self.swap = SwapSpace(self.swap.pool.num_blocks, self.num_groups)
        self._tables = {}
        self.pool.reserve(self.pins.items())
        for block in self.pins:
            name = index.name(block)
            if name is not None:
                self.pool.index.add(block, *name)

    @property
    def num_free_blocks(self) -> int:
        return self.pool.num_free

    @property
    def num_used_blocks(self) -> int:
        return self.pool.num_used

    @property
    def num_pinned_blocks(self) -> int:
        return len(self.pins)

    @property
    def num_free_swap_blocks(self) -> int:
        return self.swap.pool.num_free

    @property
    def tables(self) -> Iterable[BlockTable]:
        """The tables that hold blocks."""
        return self._tables.keys()

    def new_table(self, max_tokens: int) -> BlockTable:
        """The table of a sequence that will have `max_tokens` tokens at the most. It holds nothing yet."""
        return BlockTable.empty(self.num_groups, max_tokens)

    def reserve(self, tables: Sequence[BlockTable], num_sequences: int, num_prompt: int, num_tokens: int) -> bool:
        """Nothing is set aside: blocks are allocated when tokens need them."""
        return True

    def num_blocks_to_append(self, table: BlockTable, start: int, num_tokens: int) -> int:
        """Blocks that a table of `start` tokens takes for `num_tokens` more, but for copies on write."""
        size = self.block_size
        return self.num_groups * (-(-(start + num_tokens) // size) - -(-start // size))

    def num_copies_to_write(self, writers: Iterable[tuple[BlockTable, int, bool]]) -> int:
        """Blocks for copy-on-write when several tables are written to in one step: every writer to a shared block
        copies it, but the last of its sharers. A parent that writes before its children fork from it keeps it: they
        share it after that.

        Args:
            writers: (table, the position written first, whether the writer is to fork from the table there).
        """
        writing: dict[int, int] = {}
        references: dict[int, int] = {}
        for table, position, forks in writers:
            logical, offset = divmod(position, self.block_size)
            if not offset:
                continue
            for blocks in table.groups:
                block = blocks[logical]
                writing[block] = writing.get(block, 0) + 1
                references.setdefault(block, self.pool.reference_counts[block])
                references[block] += forks
        return sum(min(count, references[block] - 1) for block, count in writing.items())

    def append(self, table: BlockTable, num_tokens: int) -> TableChange | None:
        """Give the next `num_tokens` tokens of a sequence their slots.

        Blocks are taken one at a time, as tokens need them. A partly filled last block that others share is copied
        first: no two sequences ever write one block. The last of its sharers to write keeps the original;
        so does a parent that writes before its children fork from it.

        Returns:
            The change of the table, or None where the tokens fit into the last blocks as they are.
        """
        start = table.num_tokens
        table.num_tokens = end = start + num_tokens
        if end <= table.num_writable:
            return None
        copies = self._own_last_blocks(table) if start % self.block_size else []
        replaced = [blocks[-1] for blocks in table.groups] if copies else []
        appended: list[int] = []
        num_new = -(-end // self.block_size) - table.num_blocks
        if num_new > 0:
            self._tables[table] = None
            allocate = self.pool.allocate
            for group, blocks in enumerate(table.groups):
                new = [allocate(group) for _ in range(num_new)]
                blocks += new
                appended += new
        table.num_writable = table.num_blocks * self.block_size
        return TableChange(copies, replaced, appended) if copies or appended else None

    def _own_last_blocks(self, table: BlockTable) -> list[tuple[int, int]]:
        """Copy-on-write (paper, section 4.4): replace the last blocks that are shared."""
        copies = []
        for group, blocks in enumerate(table.groups):
            source = blocks[-1]
            if self.pool.reference_counts[source] > 1:
                blocks[-1] = destination = self.pool.allocate(group)
                self.pool.release(source)
                copies.append((source, destination))
        self.totals.num_copied_blocks += len(copies)
        return copies

    def can_fork(self, parent: BlockTable, num_tokens: int) -> bool:
        """Whether the parent still holds what a fork behind its first `num_tokens` tokens needs."""
        size = self.block_size
        return all(parent.firsts[groups[0]] <= kind.first_seen(num_tokens) // size for kind, groups in self._windowed)

    def fork(self, parent: BlockTable, child: BlockTable, num_tokens: int) -> Fork:
        """Let the empty `child` hold the blocks of `parent`'s first `num_tokens` tokens, but for those that no later
        token sees."""
        num_blocks = -(-num_tokens // self.block_size)
        child.num_tokens = child.num_writable = num_tokens
        parent.num_writable = parent.num_tokens  # its last block may be shared now
        for kind, groups in self._windowed:
            first = min(num_blocks, kind.first_seen(num_tokens) // self.block_size)
            for group in groups:
                child.firsts[group] = first
        for group, blocks in enumerate(parent.groups):
            child.groups[group] = own = blocks[:num_blocks]
            for block in own[child.firsts[group] :]:
                self.pool.acquire(block)
        if num_blocks:
            self._tables[child] = None
        return Fork(num_blocks, [])

    def release_passed(self, table: BlockTable, num_tokens: int) -> None:
        """Let go of the window groups' blocks that no query from position `num_tokens` on sees. They stay findable
        until they are needed."""
        for kind, groups in self._windowed:
            held = table.firsts[groups[0]]
            first = min(kind.first_seen(num_tokens) // self.block_size, table.num_blocks)
            if first > held:
                for group in groups:
                    for block in table.groups[group][held:first]:
                        self.pool.release(block)
                    table.firsts[group] = first

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Take back the slots of all tokens but the first `num_tokens`.

        The last token that stays must not lie inside a block that the index knows: what is written next would change
        what others find there.
        """
        num_blocks = -(-num_tokens // self.block_size)
        for blocks, first in zip(table.groups, table.firsts, strict=True):
            for block in reversed(blocks[max(first, num_blocks) :]):
                self.pool.release(block)
            del blocks[num_blocks:]
        table.firsts[:] = [min(first, num_blocks) for first in table.firsts]
        table.num_tokens = table.num_writable = num_tokens
        if not num_blocks:
            self._tables.pop(table, None)

    def free(self, table: BlockTable) -> None:
        """Let go of all of a table's blocks, the last ones first; the table is empty afterwards."""
        release = self.pool.release
        if self.num_groups == 1:
            for block in reversed(table.groups[0][table.firsts[0] :]):
                release(block)
        else:
            for logical in range(table.num_blocks - 1, -1, -1):
                for blocks, first in zip(table.groups, table.firsts, strict=True):
                    if logical >= first:
                        release(blocks[logical])
        table.clear()
        self._tables.pop(table, None)

    def index_blocks(self, table: BlockTable, first: int, stop: int, digest: Callable[[int], bytes]) -> None:
        """As `KVManager.index_blocks`."""
        add = self.pool.index.add
        for logical in range(first, min(stop, table.num_tokens // self.block_size)):
            for group, blocks in enumerate(table.groups):
                if logical >= table.firsts[group]:
                    add(blocks[logical], group, digest(logical))

    def find_prefix(self, limit: int, names: Names) -> PrefixHit:
        """The longest prefix, in blocks, whose content the index has for every group: `prefix_lookup.find_prefix`.
        Nothing is held."""
        return find_prefix(self.pool.index, self.layer_groups.kinds, self.block_size, limit, names)

    def find_blocks(self, saved: BlockTable, names: Names) -> dict[int, int]:
        """For full blocks of a table in the swap space: the pool's blocks with the same content, where it has them."""
        found: dict[int, int] = {}
        for group, blocks in enumerate(saved.groups):
            for logical in range(saved.firsts[group], saved.num_tokens // self.block_size):
                block = self.pool.index.find(group, names(logical))
                if block is not None:
                    found[blocks[logical]] = block
        return found

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of some distinct blocks, which the index has found, nobody holds: to hold them takes free blocks."""
        return sum(self.pool.index.is_idle(block) for block in blocks)

    def hold(self, table: BlockTable, hit: PrefixHit) -> None:
        """Let the empty `table` begin with what `find_prefix` has found."""
        for block in hit.blocks:
            self.pool.acquire(block)
        table.groups = [[0] * first + found for first, found in zip(hit.firsts, hit.groups, strict=True)]
        table.firsts = hit.firsts.copy()
        table.num_tokens = table.num_writable = hit.num_blocks * self.block_size
        if hit.num_blocks:
            self._tables[table] = None

    def pin(self, hit: PrefixHit) -> None:
        """Keep what `find_prefix` has found for good."""
        for block in hit.blocks:
            if block not in self.pins:
                self.pool.acquire(block)
                self.pins[block] = self.pool.group_of(block)

    def num_distinct_blocks(self, tables: Sequence[BlockTable]) -> int:
        """Blocks that some tables hold together."""
        return len({block for table in tables for block in table.held})

    def swap_out(self, tables: Sequence[BlockTable]) -> tuple[list[BlockTable], list[Move]]:
        """As `KVManager.swap_out`: each distinct block moves once."""
        saved, moves = self.swap.save(tables, self.pool)
        for table in tables:
            self.free(table)
        self.totals.num_moved_blocks += len(moves)
        return saved, moves

    def swap_in(self, tables: Sequence[tuple[BlockTable, BlockTable]], found: Mapping[int, int]) -> list[Move]:
        """As `KVManager.swap_in`: what is found is not moved."""
        moves = self.swap.restore(tables, self.pool, found)
        self._tables.update(dict.fromkeys(table for _, table in tables))
        self.totals.num_moved_blocks += len(moves)
        return moves

    def drop_saved(self, saved: BlockTable) -> None:
        """Let go of a table of the swap space."""
        self.swap.drop(saved)

    def ledger(self) -> Ledger:
        """The account of the pool's memory at this moment. Costs a look at each table's last blocks."""
        pool = self.pool
        accounts = group_accounts(self.layer_groups, pool, self._tables, self.block_size)
        return Ledger(
            num_blocks=pool.num_blocks,
            block_size=self.block_size,
            groups=accounts,
            layers_a_group=self.layer_groups.layers_a_group,
            num_used_blocks=pool.num_used,
            num_cached_blocks=pool.num_cached,
            num_shared_blocks=pool.num_shared,
            num_unshared_blocks=pool.num_references - self.num_pinned_blocks,
            num_pinned_blocks=self.num_pinned_blocks,
            num_swap_blocks=self.swap.pool.num_blocks,
            num_swapped_blocks=self.swap.pool.num_used,
            block_bytes=self.block_bytes,
            totals=replace(self.totals),
        )
