"""A paged manager in few words."""

from octavo.layer_groups import LayerGroups, one_group
from octavo.memory import BlockDemand, PagedManager


def paged(
    num_blocks: int,
    block_size: int,
    layer_groups: LayerGroups | None = None,
    *,
    num_swap_blocks: int = 0,
    block_bytes: int = 0,
) -> PagedManager:
    """One of full layers by default, for a token at a time."""
    demand = BlockDemand(block_size, layer_groups or one_group(1), max_tokens_in_flight=1)
    return PagedManager(num_blocks, demand, num_swap_blocks=num_swap_blocks, block_bytes=block_bytes)
