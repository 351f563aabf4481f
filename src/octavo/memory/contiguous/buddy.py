"""A buddy allocator: runs of neighbouring blocks in powers of two (Knowlton, 1965), as the paper assumes for Orca."""


class BuddyAllocator:
    """`num_blocks` blocks, allocated and freed in O(log num_blocks).

    A run of `2**order` blocks begins at a multiple of its length. A free run is merged with its buddy, the other half
    of the run twice as long, as soon as that is free too. A number of blocks that is no power of two is a row of runs
    that are never merged.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_free = num_blocks
        self._roots: dict[int, int] = {}
        """First block -> order of the runs that the memory is cut into at the start, the longest first."""
        first = 0
        while first < num_blocks:
            self._roots[first] = order = (num_blocks - first).bit_length() - 1
            first += 1 << order
        self._free: list[set[int]] = [set() for _ in range(num_blocks.bit_length())]
        """For each order the first blocks of the free runs."""
        for first, order in self._roots.items():
            self._free[order].add(first)

    def allocate(self, order: int) -> int | None:
        """The first block of a free run of `2**order` blocks; None where no run is long enough."""
        for larger in range(order, len(self._free)):
            if self._free[larger]:
                first = min(self._free[larger])
                self._free[larger].remove(first)
                for half in range(order, larger):
                    self._free[half].add(first + (1 << half))
                self.num_free -= 1 << order
                return first
        return None

    def free(self, first: int, order: int) -> None:
        """Give a run back."""
        self.num_free += 1 << order
        while self._roots.get(first) != order:
            buddy = first ^ (1 << order)
            if buddy not in self._free[order]:
                break
            self._free[order].remove(buddy)
            first, order = min(first, buddy), order + 1
        self._free[order].add(first)

    @property
    def free_runs(self) -> list[tuple[int, int]]:
        """(first block, length) of each free run."""
        return sorted((first, 1 << order) for order, runs in enumerate(self._free) for first in runs)
