"""The pool of physical blocks: which are free, and how many tables refer to each of the others."""

from collections.abc import Collection

from octavo.errors import EngineError
from octavo.memory.prefix_index import PrefixIndex


class BlockPool:
    """`num_blocks` physical blocks, allocated and freed in O(1) (paper, section 4.2).

    A block is free exactly while its reference count is 0. Free blocks whose content the prefix index knows stay
    findable until their memory is needed. A held block belongs to one layer group. The totals are kept as counts
    change, so reading them costs nothing.
    """

    __slots__ = (
        "_free",
        "_group_of",
        "index",
        "num_blocks",
        "num_references",
        "num_shared",
        "num_used_by_group",
        "reference_counts",
    )

    def __init__(self, num_blocks: int, num_groups: int = 1) -> None:
        self.num_blocks = num_blocks
        self.index = PrefixIndex()
        self.reference_counts = [0] * num_blocks
        """For each physical block, the block tables that hold it."""
        self.num_references = 0
        """The sum of all reference counts: the blocks that an engine without sharing would hold."""
        self.num_shared = 0
        """Blocks with a reference count above one."""
        self.num_used_by_group = [0] * num_groups
        self._group_of = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        """The free blocks that are not in the index."""

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, those still findable included."""
        return len(self._free) + self.index.num_idle

    @property
    def num_cached(self) -> int:
        """Free blocks that are still findable."""
        return self.index.num_idle

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def group_of(self, block: int) -> int:
        """The layer group of a held block, or of one that the index knows."""
        return self._group_of[block]

    def allocate(self, group: int) -> int:
        """Take a free block for a layer group, with a reference count of one.

        Blocks that the index does not know come first, the most recently freed before others: it is warm in the
        caches. Then the findable ones go, the least recently used first.

        Raises:
            EngineError: none is free. The scheduler counts before it allocates, so this is a bug, never a full pool.
        """
        if self._free:
            block = self._free.pop()
        elif self.index.num_idle:
            block = self.index.evict()
        else:
            raise EngineError(f"all {self.num_blocks} KV blocks are in use and one more was asked for")
        self.reference_counts[block] = 1
        self.num_references += 1
        self._group_of[block] = group
        self.num_used_by_group[group] += 1
        return block

    def reserve(self, blocks: Collection[tuple[int, int]]) -> None:
        """Take these free blocks, (block, group) each, one reference each. Costs a look at all free blocks."""
        groups = dict(blocks)
        self._free = [block for block in self._free if block not in groups]
        for block, group in groups.items():
            self.reference_counts[block] = 1
            self._group_of[block] = group
            self.num_used_by_group[group] += 1
        self.num_references += len(groups)

    def acquire(self, block: int) -> None:
        """Count one more table that holds `block`: a held one, or a free one that the index has found."""
        count = self.reference_counts[block]
        if count == 0:
            self.index.acquire(block)
            self.num_used_by_group[self._group_of[block]] += 1
        elif count == 1:
            self.num_shared += 1
        self.reference_counts[block] = count + 1
        self.num_references += 1

    def release(self, block: int) -> None:
        """Count one table less; the block is free once none is left."""
        count = self.reference_counts[block] - 1
        if count < 0:
            raise EngineError(f"KV block {block} was freed twice")
        self.reference_counts[block] = count
        self.num_references -= 1
        if count == 1:
            self.num_shared -= 1
        elif count == 0:
            self.num_used_by_group[self._group_of[block]] -= 1
            if not self.index.release(block):
                self._free.append(block)
