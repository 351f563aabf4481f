"""Looking a prefix up: the longest for which every layer group still has the blocks that later tokens see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from octavo.layer_groups import LayerKind
from octavo.memory.prefix_index import PrefixIndex

Names = Callable[[int], Sequence[bytes]]
"""From a logical block to the digests under which the index may know its content, the preferred one first."""


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """Full blocks with which a sequence's table can begin."""

    num_blocks: int
    """Logical blocks: the prefix has `num_blocks * block_size` tokens."""
    firsts: list[int]
    """For each group the first logical block of which a later token sees anything…"""
    groups: list[list[int]]
    """…and the physical blocks from there on."""

    @property
    def blocks(self) -> Iterator[int]:
        """The physical blocks of all groups."""
        return (block for found in self.groups for block in found)

    def block(self, group: int, logical: int) -> int | None:
        """The group's physical block; None where the hit has none."""
        index = logical - self.firsts[group]
        return self.groups[group][index] if 0 <= index < len(self.groups[group]) else None


def find_prefix(
    index: PrefixIndex,
    kinds: Sequence[LayerKind],
    block_size: int,
    limit: int,
    names: Names,
) -> PrefixHit:
    """The longest prefix of at most `limit` blocks that can be used: full groups have all of its blocks, window groups
    those that the next token's window reaches.

    Costs a look-up for each block found, and no more after the first that is missing in a full group.
    """

    def block(group: int, logical: int) -> int | None:
        return index.find(group, names(logical))

    windowed = [group for group, kind in enumerate(kinds) if kind.most_seen is not None]
    runs: dict[int, list[int]] = {}
    for group in range(len(kinds)):
        if group not in windowed:
            run: list[int] = []
            while len(run) < limit and (physical := block(group, len(run))) is not None:
                run.append(physical)
            runs[group], limit = run, len(run)

    def firsts(num_blocks: int) -> list[int]:
        position = num_blocks * block_size
        return [min(num_blocks, kind.first_seen(position) // block_size) for kind in kinds]

    group = 0
    while group < len(windowed):
        # From the end: every longer prefix that reaches an absent block is out, too.
        first = firsts(limit)[windowed[group]]
        absent = next((i for i in range(limit - 1, first - 1, -1) if block(windowed[group], i) is None), None)
        if absent is None:
            group += 1
        else:
            limit, group = absent, 0
    found = [
        runs[group][:limit]
        if group in runs
        else [each for logical in range(first, limit) if (each := block(group, logical)) is not None]
        for group, first in enumerate(firsts(limit))
    ]
    return PrefixHit(limit, firsts(limit), found)
