"""How much memory a sequence has reserved for it, before it is known how long it gets (paper, section 6.1)."""

from dataclasses import dataclass
from typing import Literal

from octavo.layer_groups import LayerGroups
from octavo.memory.demand import longest_in

ReservePolicy = Literal["max", "pow2", "oracle"]
"""For the model's longest sequence; for the next power of two of the output length; for exactly the output length."""


@dataclass(frozen=True, slots=True)
class ReservedDemand:
    """The blocks that sequences have reserved: a run of a power of two for each, in each layer group."""

    policy: ReservePolicy
    block_size: int
    layer_groups: LayerGroups
    max_model_len: int

    @property
    def has_windows(self) -> bool:
        """A run is held whole, whatever a window has passed."""
        return False

    def run_order(self, num_prompt: int, num_tokens: int) -> int:
        """The run of one sequence of one group has `2**run_order` blocks.

        Args:
            num_prompt: its prompt's tokens.
            num_tokens: the prompt's and the output's, as far as the policy knows it.
        """
        reserved = {
            "max": self.max_model_len,
            "pow2": num_prompt + (1 << (num_tokens - num_prompt - 1).bit_length()),
            "oracle": num_tokens,
        }[self.policy]
        num_blocks = -(-min(reserved, self.max_model_len) // self.block_size)
        return (num_blocks - 1).bit_length()

    def of_request(self, num_prompt: int, num_tokens: int, num_sequences: int) -> int:
        """Blocks that a request holds, for as many sequences as it may have at once: nothing is shared."""
        return num_sequences * len(self.layer_groups.groups) << self.run_order(num_prompt, num_tokens)

    def missing(self, num_logical: int, num_sequences: int, held: object = None) -> int:
        """Nothing beyond what is reserved at the admission."""
        return 0

    def longest(self, num_prompt: int, num_sequences: int, num_blocks: int, limit: int) -> int:
        """As `BlockDemand.longest`."""
        return longest_in(self, num_prompt, num_sequences, num_blocks, limit)
