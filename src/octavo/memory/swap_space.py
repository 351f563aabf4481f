"""The swap space, where the blocks of preempted requests wait, and the moving of tables there and back."""

from collections.abc import Iterable, Mapping, Sequence

from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable

Move = tuple[int, int]
"""A block of the one pool, and the block of the other that takes its content."""


class SwapSpace:
    """A second pool; its tables are those of preempted sequences."""

    def __init__(self, num_blocks: int, num_groups: int) -> None:
        self.pool = BlockPool(num_blocks, num_groups)

    def save(self, tables: Sequence[BlockTable], pool: BlockPool) -> tuple[list[BlockTable], list[Move]]:
        """Copies of tables of `pool`, which keep theirs; and what has to be moved for them."""
        saved = [table.fresh() for table in tables]
        return saved, transfer(zip(tables, saved, strict=True), pool, self.pool, {})

    def restore(
        self, tables: Sequence[tuple[BlockTable, BlockTable]], pool: BlockPool, found: Mapping[int, int]
    ) -> list[Move]:
        """Give the second, empty table of each pair blocks of `pool` for what the first one holds; that is dropped.

        Args:
            found: for blocks of the swap space, blocks of `pool` that its index has found with the same content.

        Returns:
            What has to be moved.
        """
        for block in found.values():
            pool.acquire(block)  # so that none is evicted for another
        moves = transfer(tables, self.pool, pool, dict(found))
        for block in found.values():
            pool.release(block)
        for saved, _ in tables:
            self.drop(saved)
        return moves

    def drop(self, saved: BlockTable) -> None:
        """Let go of a table of the swap space."""
        for block in saved.held:
            self.pool.release(block)
        saved.clear()


def transfer(
    tables: Iterable[tuple[BlockTable, BlockTable]], source: BlockPool, destination: BlockPool, places: dict[int, int]
) -> list[Move]:
    """Give empty tables blocks of the pool `destination`, shared among each other as those of `source` are.

    The tables of `source` keep theirs.

    Args:
        tables: pairs of a table of `source` and the empty table that is to be like it.
        places: for blocks of `source`, blocks of `destination` with the same content, which somebody holds; the
            places of all others are added.

    Returns:
        What has to be moved: each distinct block that had no place, once.
    """
    moves: list[Move] = []
    for old, new in tables:
        for group, (blocks, first) in enumerate(zip(old.groups, old.firsts, strict=True)):
            taken = [0] * first
            for block in blocks[first:]:
                place = places.get(block)
                if place is None:
                    place = places[block] = destination.allocate(group)
                    moves.append((block, place))
                else:
                    destination.acquire(place)
                taken.append(place)
            new.groups[group] = taken
        new.firsts = old.firsts.copy()
        new.num_tokens = new.num_writable = old.num_tokens
    return moves
