"""Moving tables between two pools: out to the swap space, where the blocks of preempted requests wait, and back."""

from collections.abc import Iterable

from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable

Move = tuple[int, int]
"""A block of the one pool, and the block of the other that takes its content."""


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
