"""How many blocks sequences can come to hold: what admission, sizing and the paper's worst cases count with."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import msgspec

from octavo.layer_groups import LayerGroups


class BlockDemand(msgspec.Struct, frozen=True, tag=True):
    """Worst cases over all layer groups.

    A full group holds every block of a sequence. A window group holds those that the window still reaches, and those of
    the tokens in flight: it lets go of a block only when the step that passed it has run.
    """

    block_size: int
    layer_groups: LayerGroups
    max_tokens_in_flight: int
    """Tokens that are computed at once, of all sequences together: the token budget of a step, times the steps in
    flight."""

    def of_request(self, num_prompt: int, num_tokens: int, num_sequences: int) -> int:
        """Blocks that a request can come to hold at most: the prompt's full blocks once, the rest for each sequence
        (paper, section 4.3).

        Args:
            num_prompt: tokens that all sequences begin with.
            num_tokens: of each sequence at its longest.
        """
        shared = num_prompt // self.block_size
        own = -(-num_tokens // self.block_size) - shared
        return self.missing(shared + num_sequences * own, num_sequences)

    def missing(self, num_logical: int, num_sequences: int, held: Sequence[int] | None = None) -> int:
        """Blocks to allocate for some logical blocks in all groups, no more of a window group than its sequences can
        hold at once.

        Args:
            held: distinct blocks of each group that they hold already; none by default.
        """
        total = 0
        for group, kind in enumerate(self.layer_groups.kinds):
            window = kind.most_seen
            if window is None:
                total += num_logical
            else:
                room = self._most_held(window, num_sequences) - (held[group] if held else 0)
                total += min(num_logical, max(0, room))
        return total

    @property
    def has_windows(self) -> bool:
        """Whether `KVManager.release_passed` lets go of anything."""
        return any(kind.most_seen is not None for kind in self.layer_groups.kinds)

    def _most_held(self, window: int, num_sequences: int) -> int:
        """Blocks of one window group: `n` tokens in a row lie in (n + B - 2) // B + 1 blocks at most."""
        tokens = num_sequences * (window - 1) + self.max_tokens_in_flight
        return (tokens + num_sequences * (self.block_size - 2)) // self.block_size + num_sequences

    def longest(self, num_prompt: int, num_sequences: int, num_blocks: int, limit: int) -> int:
        """The most tokens, up to `limit`, that each of a request's sequences can have in `num_blocks` blocks; less than
        `num_prompt` where not even that fits."""
        return longest_in(self, num_prompt, num_sequences, num_blocks, limit)


ReservePolicy = Literal["max", "pow2", "oracle"]
"""For the model's longest sequence; for the next power of two of the output length; for exactly the output length."""


class ReservedDemand(msgspec.Struct, frozen=True, tag=True):
    """What contiguous sequences have reserved before it is known how long they get: a run of a power of two blocks for
    each, in each layer group (paper, section 6.1)."""

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
        num_output = max(1, num_tokens - num_prompt)
        reserved = {
            "max": self.max_model_len,
            "pow2": num_prompt + (1 << (num_output - 1).bit_length()),
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


Demand = BlockDemand | ReservedDemand
"""What admission counts with: it crosses to the front, which refuses what could never run."""


def most_at_once(demand: Demand, num_tokens: int, num_blocks: int, limit: int) -> int:
    """How many sequences of `num_tokens` tokens, up to `limit`, can have `num_blocks` blocks together."""
    counts = range(1, limit + 1)
    return bisect_right(counts, num_blocks, key=lambda count: demand.of_request(0, num_tokens, count))


def longest_in(demand: Demand, num_prompt: int, num_sequences: int, num_blocks: int, limit: int) -> int:
    """As `BlockDemand.longest`, by halving what is left."""
    low, high = num_prompt - 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        if demand.of_request(num_prompt, middle, num_sequences) <= num_blocks:
            low = middle
        else:
            high = middle - 1
    return low
