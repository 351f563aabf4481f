"""A sequence's block table: its logical blocks in order, each mapped to a physical block."""

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class BlockTable:
    """Logical block i lives in physical block `block_ids[i]`. Blocks are appended when a token needs one, so only the
    last can be unfilled."""

    max_tokens: int
    """The most tokens the sequence can come to hold: slots past it are never used."""
    num_tokens: int = 0
    """Tokens whose states the table holds: slots filled in logical order."""
    block_ids: list[int] = field(default_factory=list)
