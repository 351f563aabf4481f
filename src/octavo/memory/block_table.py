"""A sequence's block tables: for each layer group its logical blocks in order, each mapped to a physical block."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class BlockTable:
    """Where a sequence's KV lies.

    In group `g`, logical block `i` lives in physical block `groups[g][i]`. All groups have entries for the same logical
    blocks; a window group holds those from `firsts[g]` on, and has let go of the ones before: their entries mean
    nothing. Blocks are appended when a token needs one, so only the last can be unfilled.
    """

    max_tokens: int
    """The most tokens the sequence can come to hold: slots past it are never used."""
    groups: list[list[int]]
    """An empty list a group, in a new table."""
    firsts: list[int]
    """The first logical block that each group holds."""
    num_tokens: int = 0
    """Tokens that the table has slots for, in logical order: those of window groups that were let go included."""
    num_writable: int = 0
    """Up to this many tokens can be written with no change of the table: its last blocks have slots for them, and no
    other table holds these blocks."""

    @classmethod
    def empty(cls, num_groups: int, max_tokens: int) -> "BlockTable":
        return cls(max_tokens, [[] for _ in range(num_groups)], [0] * num_groups)

    @property
    def num_blocks(self) -> int:
        """Logical blocks."""
        return len(self.groups[0])

    @property
    def entries(self) -> list[int]:
        """Its entries for all logical blocks, group by group."""
        return [block for blocks in self.groups for block in blocks]

    @property
    def held(self) -> list[int]:
        """The physical blocks that the table holds, of all groups."""
        return [block for blocks, first in zip(self.groups, self.firsts, strict=True) for block in blocks[first:]]

    def fresh(self) -> "BlockTable":
        """An empty table for the same sequence."""
        return BlockTable.empty(len(self.groups), self.max_tokens)

    def clear(self) -> None:
        """Forget everything but the limits."""
        for blocks in self.groups:
            blocks.clear()
        self.firsts[:] = [0] * len(self.firsts)
        self.num_tokens = self.num_writable = 0
