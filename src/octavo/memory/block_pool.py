"""The pool of physical blocks: who is free, how many tables refer to each, how many of its slots hold token states."""

from collections.abc import Collection

from octavo.errors import EngineError
from octavo.memory.prefix_index import PrefixIndex


class BlockPool:
    """`num_blocks` physical blocks of `block_size` slots, allocated and freed in O(1) (paper, section 4.2).

    A block is free exactly while its reference count is 0. Free blocks whose content the prefix index knows stay
    findable until their memory is needed. The totals are kept as counts change, so reading them costs nothing.
    """

    __slots__ = (
        "_free",
        "block_size",
        "filled_slots",
        "index",
        "num_blocks",
        "num_filled_slots",
        "num_references",
        "num_shared",
        "reference_counts",
    )

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.index = PrefixIndex()
        self.reference_counts = [0] * num_blocks
        """For each physical block, the block tables that hold it."""
        self.filled_slots = [0] * num_blocks
        """For each held block, how many of its slots hold token states, from the first on."""
        self.num_references = 0
        """The sum of all reference counts: the blocks that an engine without sharing would hold."""
        self.num_shared = 0
        """Blocks with a reference count above one."""
        self.num_filled_slots = 0
        """The sum over all held blocks of their filled slots."""
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

    def allocate(self) -> int:
        """Take a free block with a reference count of one and no filled slots.

        Blocks that the index does not know come first, the most recently freed before others: it is warm in the
        caches. Then the findable ones go, the least recently used first.

        Raises:
            EngineError: none is free. The scheduler counts before it allocates, so this is a bug, never a full pool.
        """
        if self._free:
            block = self._free.pop()
        elif self.index.num_idle:
            block = self.index.give_up()
        else:
            raise EngineError(f"all {self.num_blocks} KV blocks are in use and one more was asked for")
        self.reference_counts[block] = 1
        self.num_references += 1
        return block

    def reserve(self, blocks: Collection[int]) -> None:
        """Take these free, full blocks, one reference each. Costs a look at all free blocks."""
        self._free = [block for block in self._free if block not in blocks]
        for block in blocks:
            self.reference_counts[block] = 1
            self.fill(block, self.block_size)
        self.num_references += len(blocks)

    def share(self, block: int) -> None:
        """Count one more table that holds `block`: a held one, or a free one that the index has found."""
        count = self.reference_counts[block]
        if count == 0:
            self.index.hold(block)
            self.fill(block, self.block_size)
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
            self.num_filled_slots -= self.filled_slots[block]
            self.filled_slots[block] = 0
            if not self.index.let_go(block):
                self._free.append(block)

    def fill(self, block: int, num_slots: int) -> None:
        """Count `num_slots` more slots of `block` as holding token states."""
        self.filled_slots[block] += num_slots
        self.num_filled_slots += num_slots
