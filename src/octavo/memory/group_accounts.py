"""What each layer group of a pool holds. Slots that hold nothing are found by a look at each table's last blocks, as
only these can be unfilled."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from octavo.layer_groups import LayerGroups
from octavo.memory.block_pool import BlockPool
from octavo.memory.block_table import BlockTable
from octavo.memory.ledger import GroupAccount


def group_accounts(
    layer_groups: LayerGroups, pool: BlockPool, tables: Iterable[BlockTable], block_size: int
) -> list[GroupAccount]:
    """An account of each group.

    Args:
        tables: all that hold blocks.
    """
    groups = layer_groups.groups
    unfilled = unfilled_slots(tables, pool.reference_counts, block_size, len(groups))
    return [
        GroupAccount(
            kind=str(group.kind),
            num_layers=len(group.layers),
            num_used_blocks=num_used,
            num_filled_slots=num_used * block_size - empty.num_slots,
            num_reserved_slots=empty.num_reserved,
        )
        for group, num_used, empty in zip(groups, pool.num_used_by_group, unfilled, strict=True)
    ]


class Unfilled(NamedTuple):
    """Of one layer group."""

    num_slots: int
    num_reserved: int
    """Those that a future token of a table that holds them can fill."""


def unfilled_slots(
    tables: Iterable[BlockTable], reference_counts: Sequence[int], block_size: int, num_groups: int
) -> list[Unfilled]:
    """For each group the unfilled slots, those of a block that several tables share counted once.

    Args:
        tables: all that hold blocks.
        reference_counts: of each physical block.
    """
    num_holders: dict[int, int] = {}
    """Tables whose last block it is."""
    unfilled: list[dict[int, tuple[int, int]]] = [{} for _ in range(num_groups)]
    for table in tables:
        offset = table.num_tokens % block_size
        if not offset:
            continue
        free, growth = block_size - offset, table.max_tokens - table.num_tokens
        for blocks, of_group in zip(table.groups, unfilled, strict=True):
            block = blocks[-1]
            num_holders[block] = num_holders.get(block, 0) + 1
            least, reserved = of_group.get(block, (free, 0))
            least = min(least, free)
            of_group[block] = least, min(least, max(reserved, growth))
    counts = []
    for of_group in unfilled:
        # A table that goes on behind a block has filled it, whatever a fork from its middle holds.
        own = [slots for block, slots in of_group.items() if num_holders[block] == reference_counts[block]]
        counts.append(Unfilled(sum(free for free, _ in own), sum(reserved for _, reserved in own)))
    return counts
