"""Which manager the memory gets: `--kv-allocation`."""

from octavo.config import KVAllocation
from octavo.layer_groups import LayerGroups
from octavo.memory.contiguous import ContiguousManager
from octavo.memory.demand import ReservePolicy
from octavo.memory.manager import KVManager
from octavo.memory.paged import PagedManager

RESERVE_POLICIES: dict[KVAllocation, ReservePolicy] = {
    "contiguous-max": "max",
    "contiguous-pow2": "pow2",
    "contiguous-oracle": "oracle",
}


def make_manager(
    allocation: KVAllocation,
    num_blocks: int,
    block_size: int,
    layer_groups: LayerGroups,
    *,
    max_model_len: int,
    max_tokens_in_flight: int,
    num_swap_blocks: int = 0,
    block_bytes: int = 0,
) -> KVManager:
    """The manager of a pool of `num_blocks` blocks.

    Args:
        max_model_len: tokens of the longest sequence, for which contiguous-max reserves.
        max_tokens_in_flight: tokens that are computed at once, of all sequences together.
        num_swap_blocks: the swap space's; contiguous managers have none.
    """
    if allocation == "paged":
        return PagedManager(
            num_blocks,
            block_size,
            layer_groups,
            num_swap_blocks=num_swap_blocks,
            block_bytes=block_bytes,
            max_tokens_in_flight=max_tokens_in_flight,
        )
    policy = RESERVE_POLICIES[allocation]
    return ContiguousManager(num_blocks, block_size, layer_groups, policy, max_model_len, block_bytes=block_bytes)
