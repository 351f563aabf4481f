"""The ledger: what the pool's memory holds at one moment, and what of it is waste (paper, section 3.1 and figure 2)."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Totals:
    """What has happened in the memory since the engine's start."""

    num_copied_blocks: int = 0
    """By copy-on-write."""
    num_queried_tokens: int = 0
    """Prompt tokens of admitted requests that the prefix cache was asked for."""
    num_hit_tokens: int = 0
    """Those of them that it had."""
    num_recomputes: int = 0
    """Preemptions whose blocks were given up."""
    num_recomputed_tokens: int = 0
    """Tokens whose states were computed again after one."""
    num_swaps: int = 0
    """Preemptions whose blocks were moved to the swap space."""
    num_moved_blocks: int = 0
    """Out to the swap space, and back."""

    @property
    def num_preemptions(self) -> int:
        return self.num_recomputes + self.num_swaps


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAccount:
    """What the ledger tells of one layer group."""

    kind: str
    """What its layers see: `full`, or `window(512)`."""
    num_layers: int
    """Those of the model, without padding."""
    num_used_blocks: int
    num_filled_slots: int
    """Slots that hold token states."""
    num_reserved_slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """An account in blocks and slots. A shared block counts once, except in `num_unshared_blocks`. A slot holds one
    token's states of one layer group.

    The paper's three kinds of waste are the slots of used blocks that hold nothing: reserved (a future token of the
    same sequence can fill them), internal fragmentation (the sequence's longest possible length ends before them), and
    external fragmentation (free memory that no request can use), which fixed-size blocks cannot have:
    `num_external_slots` is 0 for a paged pool.
    """

    num_blocks: int
    block_size: int
    groups: list[GroupAccount]
    layers_a_group: int
    """Layers that a block has places for."""
    num_used_blocks: int
    num_shared_blocks: int
    """Used blocks with more than one holder: sequences, or a pin."""
    num_unshared_blocks: int
    """Blocks that the same sequences would hold if nothing were shared."""
    num_external_slots: int = 0
    num_cached_blocks: int = 0
    """Blocks that no sequence holds and the prefix cache still finds; they go when memory is needed."""
    num_pinned_blocks: int = 0
    """Used blocks that stay for good (--pin-prefix)."""
    num_swap_blocks: int = 0
    """Blocks that the swap space has room for."""
    num_swapped_blocks: int = 0
    """Those of them that hold blocks of preempted requests."""
    block_bytes: int = 0
    totals: Totals = field(default_factory=Totals)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that hold nothing: used, cached and free ones make up the pool."""
        return self.num_blocks - self.num_used_blocks - self.num_cached_blocks

    @property
    def copied_bytes(self) -> int:
        """Bytes copied by copy-on-write since the start."""
        return self.totals.num_copied_blocks * self.block_bytes

    @property
    def moved_bytes(self) -> int:
        """Bytes moved to the swap space and back since the start."""
        return self.totals.num_moved_blocks * self.block_bytes

    @property
    def num_filled_slots(self) -> int:
        """Slots that hold token states."""
        return sum(group.num_filled_slots for group in self.groups)

    @property
    def num_reserved_slots(self) -> int:
        """Slots that a future token of the same sequence can fill."""
        return sum(group.num_reserved_slots for group in self.groups)

    @property
    def padding_bytes(self) -> int:
        """Bytes of used blocks that lie in the empty places of groups with fewer layers than others."""
        empty = sum(group.num_used_blocks * (self.layers_a_group - group.num_layers) for group in self.groups)
        return empty * self.block_bytes // self.layers_a_group

    @property
    def num_unfilled_slots(self) -> int:
        """Slots that are allocated and hold nothing."""
        return self.num_used_blocks * self.block_size - self.num_filled_slots

    @property
    def num_fragmented_slots(self) -> int:
        """Internal fragmentation: allocated slots that will never be filled."""
        return self.num_unfilled_slots - self.num_reserved_slots

    @property
    def waste(self) -> float:
        """The share of allocated memory that holds no token state, 0 to 1: empty slots, and empty places of layers."""
        held = self.layers_a_group * (self.num_used_blocks * self.block_size + self.num_external_slots)
        filled = sum(group.num_layers * group.num_filled_slots for group in self.groups)
        return 1 - filled / held if held else 0.0

    @property
    def sharing_savings(self) -> float:
        """The share of blocks saved by sharing, 0 to 1 (paper, figure 15): blocks saved / blocks without sharing."""
        return 1 - self.num_used_blocks / self.num_unshared_blocks if self.num_unshared_blocks else 0.0

    def __str__(self) -> str:
        used_slots = self.num_used_blocks * self.block_size
        return (
            f"{self.num_used_blocks} of {self.num_blocks} blocks used ({self.num_shared_blocks} shared, "
            f"{self.num_unshared_blocks} without sharing), {self.num_cached_blocks} cached, "
            f"{self.num_swapped_blocks} swapped, "
            f"{self.num_filled_slots} of {used_slots} slots filled, waste {self.waste:.1%} "
            f"(reserved {self.num_reserved_slots}, internal {self.num_fragmented_slots}, external "
            f"{self.num_external_slots})"
        )
