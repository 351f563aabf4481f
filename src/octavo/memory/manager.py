"""The memory protocol: the verbs by which scheduling and the engine speak to whatever manages the KV memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from octavo.memory.block_table import BlockTable
from octavo.memory.demand import Demand
from octavo.memory.ledger import Ledger, Totals
from octavo.memory.prefix_lookup import Names, PrefixHit
from octavo.memory.swap_space import Move


class TableChange(NamedTuple):
    """What an append did to a table."""

    copies: list[tuple[int, int]]
    """(source, destination) of each block that has to be copied before anything is written."""
    replaced: list[int]
    """The last block of every group if any group's was copied on write, before blocks were appended; else empty."""
    appended: list[int]
    """New blocks at the end, as many for each group: first all of group 0's."""


class Fork(NamedTuple):
    """What a fork gave the child's table."""

    num_shared: int
    """Logical blocks that it has from its parent…"""
    appended: list[int]
    """…and blocks of its own behind them, as many for each group."""


class KVManager(Protocol):
    """Decides in which physical blocks a sequence's KV lies, and touches no tensor: what it decides is returned as
    plain data.

    A step is planned in two halves. First blocks are counted, and requests that are preempted are freed or swapped out;
    then tables grow and fork. Nothing is freed in the second half, so no block that one sequence loses there is written
    by another in the same step. What a preemption frees may be: swaps out are moved before anything is written.
    """

    block_size: int
    block_bytes: int
    num_blocks: int
    totals: Totals

    @property
    def demand(self) -> Demand: ...

    @property
    def forks_copy(self) -> bool:
        """Whether a fork copies its parent's states, and so can be written to only a step after they are computed."""
        ...

    @property
    def num_free_blocks(self) -> int: ...

    @property
    def num_used_blocks(self) -> int: ...

    @property
    def num_pinned_blocks(self) -> int: ...

    @property
    def num_free_swap_blocks(self) -> int: ...

    @property
    def tables(self) -> Iterable[BlockTable]:
        """The tables that hold blocks."""
        ...

    def restart(self) -> None:
        """Forget everything but the pins."""
        ...

    def new_table(self, max_tokens: int) -> BlockTable:
        """The table of a sequence that will have `max_tokens` tokens at the most. It holds nothing yet."""
        ...

    def reserve(self, tables: Sequence[BlockTable], num_sequences: int, num_prompt: int, num_tokens: int) -> bool:
        """Set memory aside for a request that is admitted; False where there is no room now.

        Args:
            tables: of its sequences so far.
            num_sequences: that it may come to have at once.
            num_prompt, num_tokens: of the prompt, and of each sequence as long as it is expected to get.
        """
        ...

    def num_blocks_to_append(self, table: BlockTable, start: int, num_tokens: int) -> int:
        """Blocks that a table of `start` tokens takes for `num_tokens` more, but for copies on write."""
        ...

    def num_copies_to_write(self, writers: Iterable[tuple[BlockTable, int, bool]]) -> int:
        """Blocks for copy-on-write when several tables are written to in one step.

        Args:
            writers: (table, the position written first, whether the writer is to fork from the table there).
        """
        ...

    def append(self, table: BlockTable, num_tokens: int) -> TableChange | None:
        """Give the next `num_tokens` tokens of a sequence their slots. None where that changes no block."""
        ...

    def can_fork(self, parent: BlockTable, num_tokens: int) -> bool:
        """Whether the parent still holds what a fork behind its first `num_tokens` tokens needs."""
        ...

    def fork(self, parent: BlockTable, child: BlockTable, num_tokens: int) -> Fork:
        """Let the empty `child` begin with the states of `parent`'s first `num_tokens` tokens."""
        ...

    def release_passed(self, table: BlockTable, num_tokens: int) -> None:
        """Let go of what no query from position `num_tokens` on sees."""
        ...

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """Take back the slots of all tokens but the first `num_tokens`."""
        ...

    def free(self, table: BlockTable) -> None:
        """Let go of all that a table holds; it is empty afterwards."""
        ...

    def index_blocks(self, table: BlockTable, first: int, stop: int, digest: Callable[[int], bytes]) -> None:
        """Make a table's logical blocks from `first` to before `stop` findable, each by its digest, as far as they are
        full."""
        ...

    def find_prefix(self, limit: int, names: Names) -> PrefixHit:
        """The longest prefix of at most `limit` blocks that a table can begin with. Nothing is held yet."""
        ...

    def find_blocks(self, saved: BlockTable, names: Names) -> dict[int, int]:
        """For full blocks of a table in the swap space: the pool's blocks with the same content, where it has them."""
        ...

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of some distinct blocks, which were found, nobody holds: to hold them takes free blocks."""
        ...

    def hold(self, table: BlockTable, hit: PrefixHit) -> None:
        """Let the empty `table` begin with what was found."""
        ...

    def pin(self, hit: PrefixHit) -> None:
        """Keep what was found for good."""
        ...

    def num_distinct_blocks(self, tables: Sequence[BlockTable]) -> int:
        """Blocks that some tables hold together."""
        ...

    def swap_out(self, tables: Sequence[BlockTable]) -> tuple[list[BlockTable], list[Move]]:
        """Give tables copies in the swap space, and let go of all that they hold.

        Returns:
            The copies, and what has to be moved for them: (block of the pool, block of the swap space).
        """
        ...

    def swap_in(self, tables: Sequence[tuple[BlockTable, BlockTable]], found: Mapping[int, int]) -> list[Move]:
        """Give the second, empty table of each pair what the first one, of the swap space, holds; that is freed.

        Args:
            found: for blocks of the swap space, blocks of the pool with the same content.

        Returns:
            What has to be moved: (block of the swap space, block of the pool).
        """
        ...

    def drop_saved(self, saved: BlockTable) -> None:
        """Let go of a table of the swap space."""
        ...

    def ledger(self) -> Ledger:
        """The account of the memory at this moment."""
        ...
