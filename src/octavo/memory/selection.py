"""Which manager the memory gets, and what it counts with: `--kv-allocation`."""

from octavo.config import KVAllocation
from octavo.layer_groups import LayerGroups
from octavo.memory.contiguous import ContiguousManager
from octavo.memory.demand import BlockDemand, Demand, ReservedDemand, ReservePolicy
from octavo.memory.manager import KVManager
from octavo.memory.paged import PagedManager

RESERVE_POLICIES: dict[KVAllocation, ReservePolicy] = {
    "contiguous-max": "max",
    "contiguous-pow2": "pow2",
    "contiguous-oracle": "oracle",
}


def make_demand(
    allocation: KVAllocation,
    block_size: int,
    layer_groups: LayerGroups,
    *,
    max_model_len: int,
    max_tokens_in_flight: int,
) -> Demand:
    """What sequences can come to hold.

    Args:
        max_model_len: tokens of the longest sequence, for which contiguous-max reserves.
        max_tokens_in_flight: tokens that are computed at once, of all sequences together.
    """
    if allocation == "paged":
        return BlockDemand(block_size, layer_groups, max_tokens_in_flight)
    return ReservedDemand(RESERVE_POLICIES[allocation], block_size, layer_groups, max_model_len)


def make_manager(demand: Demand, num_blocks: int, *, num_swap_blocks: int = 0, block_bytes: int = 0) -> KVManager:
    """The manager of a pool of `num_blocks` blocks.

    Args:
        demand: tells which; the manager counts with it.
        num_swap_blocks: the swap space's; contiguous managers have none.
    """
    match demand:
        case BlockDemand():
            return PagedManager(num_blocks, demand, num_swap_blocks=num_swap_blocks, block_bytes=block_bytes)
        case ReservedDemand():
            return ContiguousManager(num_blocks, demand, block_bytes=block_bytes)
