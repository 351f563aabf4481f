"""The contiguous manager: a run of neighbouring blocks for each sequence, reserved when its request is admitted."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from octavo.errors import EngineError
from octavo.layer_groups import LayerGroups
from octavo.memory.block_table import BlockTable
from octavo.memory.contiguous.buddy import BuddyAllocator
from octavo.memory.demand import ReservedDemand, ReservePolicy
from octavo.memory.ledger import GroupAccount, Ledger, Totals
from octavo.memory.manager import Fork, TableChange
from octavo.memory.prefix_lookup import Names, PrefixHit
from octavo.memory.swap_space import Move

Run = list[int]
"""The first block of a run in each layer group."""


@dataclass(eq=False, slots=True)
class Reservation:
    """The runs of one request."""

    order: int
    """Each run has `2**order` blocks in each layer group."""
    runs: list[Run]
    unused: list[Run]
    """Those that no sequence has: kept for its forks."""
    tables: set[BlockTable]
    """The request's sequences; when the last one is over the runs are free."""
    max_tokens: int


class ContiguousManager:
    """Reserves memory as Orca does (Yu et al., OSDI 2022; paper, section 6.1), behind the verbs of `KVManager`.

    Nothing is shared: a fork copies its parent's blocks, and no prefix is kept. Tables show only the blocks of a run
    that tokens have reached, so what reads them cannot tell a run from single blocks.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        layer_groups: LayerGroups,
        policy: ReservePolicy,
        max_model_len: int,
        *,
        block_bytes: int = 0,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.block_bytes = block_bytes
        self.layer_groups = layer_groups
        self.demand = ReservedDemand(policy, block_size, layer_groups, max_model_len)
        self.totals = Totals()
        self._buddies = BuddyAllocator(num_blocks)
        self._reservations: dict[BlockTable, Reservation] = {}
        self._runs: dict[BlockTable, Run] = {}
        self._copies_due: dict[BlockTable, list[tuple[int, int]]] = {}
        """Of forks that have not written yet: their parents' blocks, whose states may be computed in this very step."""
        self._was_refused = False
        """Whether the last reservation asked for did not fit: then the free memory is external fragmentation."""

    num_pinned_blocks = 0
    num_free_swap_blocks = 0
    forks_copy = True

    def restart(self) -> None:
        """Forget everything."""
        self._buddies = BuddyAllocator(self.num_blocks)
        self._reservations, self._runs, self._copies_due = {}, {}, {}
        self._was_refused = False

    @property
    def num_free_blocks(self) -> int:
        return self._buddies.num_free

    @property
    def num_used_blocks(self) -> int:
        return self.num_blocks - self._buddies.num_free

    @property
    def tables(self) -> Iterable[BlockTable]:
        """The tables that have a run."""
        return self._runs.keys()

    def new_table(self, max_tokens: int) -> BlockTable:
        """As `KVManager.new_table`."""
        return BlockTable.empty(len(self.layer_groups.groups), max_tokens)

    def reserve(self, tables: Sequence[BlockTable], num_sequences: int, num_prompt: int, num_tokens: int) -> bool:
        """Reserve a run for each sequence that the request may have at once."""
        order = self.demand.run_order(num_prompt, num_tokens)
        runs: list[Run] = []
        for _ in range(num_sequences):
            run = self._allocate_run(order)
            if run is None:
                self._free_runs(runs, order)
                self._was_refused = True
                return False
            runs.append(run)
        self._was_refused = False
        reservation = Reservation(order, runs, runs[::-1], set(tables), tables[0].max_tokens)
        self._reservations.update(dict.fromkeys(tables, reservation))
        return True

    def _allocate_run(self, order: int) -> Run | None:
        """A run in each layer group, or none at all."""
        run: Run = []
        for _ in self.layer_groups.groups:
            first = self._buddies.allocate(order)
            if first is None:
                self._free_runs([run], order)
                return None
            run.append(first)
        return run

    def _free_runs(self, runs: list[Run], order: int) -> None:
        for run in runs:
            for first in run:
                self._buddies.free(first, order)

    def num_blocks_to_append(self, table: BlockTable, start: int, num_tokens: int) -> int:
        """None, as they are reserved; more than there are where the sequence outgrows its run."""
        slots = self.block_size << self._reservations[table].order
        return 0 if start + num_tokens <= slots else self.num_blocks + 1

    def num_copies_to_write(self, writers: Iterable[tuple[BlockTable, int, bool]]) -> int:
        """None: no block is shared."""
        return 0

    def append(self, table: BlockTable, num_tokens: int) -> TableChange | None:
        """As `KVManager.append`: the next blocks of the sequence's run, and before a fork's first the copies of what
        its parent has."""
        if num_tokens == 0:
            return None
        run = self._run_of(table)
        copies = self._copies_due.pop(table, [])
        self.totals.num_copied_blocks += len(copies)
        first = table.num_blocks
        table.num_tokens += num_tokens
        new = range(first, -(-table.num_tokens // self.block_size))
        appended: list[int] = []
        for blocks, start in zip(table.groups, run, strict=True):
            blocks += [start + logical for logical in new]
            appended += blocks[first:]
        table.num_writable = table.num_blocks * self.block_size
        return TableChange(copies, [], appended) if copies or appended else None

    def _run_of(self, table: BlockTable) -> Run:
        if table not in self._runs:
            self._runs[table] = self._reservations[table].unused.pop()
        return self._runs[table]

    def can_fork(self, parent: BlockTable, num_tokens: int) -> bool:
        """Always: nothing is let go of."""
        return True

    def fork(self, parent: BlockTable, child: BlockTable, num_tokens: int) -> Fork:
        """Give the empty child blocks of a run of its own; they are copied before it first writes."""
        reservation = self._reservations[child] = self._reservations[parent]
        reservation.tables.add(child)
        num_blocks = -(-num_tokens // self.block_size)
        appended: list[int] = []
        copies: list[tuple[int, int]] = []
        for blocks, source, start in zip(child.groups, parent.groups, self._run_of(child), strict=True):
            blocks += range(start, start + num_blocks)
            copies += zip(source[:num_blocks], blocks, strict=True)
            appended += blocks
        self._copies_due[child] = copies
        child.num_tokens = child.num_writable = num_tokens
        return Fork(0, appended)

    def release_passed(self, table: BlockTable, num_tokens: int) -> None:
        """Nothing: a run is held whole."""

    def truncate(self, table: BlockTable, num_tokens: int) -> None:
        """As `KVManager.truncate`."""
        num_blocks = -(-num_tokens // self.block_size)
        for blocks in table.groups:
            del blocks[num_blocks:]
        table.num_tokens = table.num_writable = num_tokens

    def free(self, table: BlockTable) -> None:
        """Give a sequence's run back to its request, and with the last one all of them to the memory."""
        table.clear()
        self._copies_due.pop(table, None)
        reservation, run = self._reservations.pop(table, None), self._runs.pop(table, None)
        if reservation is None:
            return
        reservation.tables.remove(table)
        if run is not None:
            reservation.unused.append(run)
        if not reservation.tables:
            self._free_runs(reservation.runs, reservation.order)

    def index_blocks(self, table: BlockTable, first: int, stop: int, digest: Callable[[int], bytes]) -> None:
        """Nothing: no prefix is kept."""

    def find_prefix(self, limit: int, names: Names) -> PrefixHit:
        """Nothing."""
        groups = self.layer_groups.groups
        return PrefixHit(0, [0] * len(groups), [[] for _ in groups])

    def find_blocks(self, saved: BlockTable, names: Names) -> dict[int, int]:
        """Nothing."""
        return {}

    def num_idle(self, blocks: Iterable[int]) -> int:
        """None."""
        return 0

    def hold(self, table: BlockTable, hit: PrefixHit) -> None:
        """Nothing is found, so nothing is held."""

    def pin(self, hit: PrefixHit) -> None:
        """Nothing is found, so nothing is pinned."""

    def num_distinct_blocks(self, tables: Sequence[BlockTable]) -> int:
        """As `KVManager.num_distinct_blocks`."""
        return sum(table.num_blocks * len(table.groups) for table in tables)

    def swap_out(self, tables: Sequence[BlockTable]) -> tuple[list[BlockTable], list[Move]]:
        """Never asked for: there is no swap space."""
        raise EngineError("contiguous reservations are not swapped")

    def swap_in(self, tables: Sequence[tuple[BlockTable, BlockTable]], found: Mapping[int, int]) -> list[Move]:
        """Nothing has been swapped out."""
        return []

    def drop_saved(self, saved: BlockTable) -> None:
        """Nothing has been swapped out."""

    def ledger(self) -> Ledger:
        """The account of the memory at this moment. Costs a look at each reservation."""
        size, num_groups = self.block_size, len(self.layer_groups.groups)
        used = filled = useful = 0
        for reservation in set(self._reservations.values()):
            slots = size << reservation.order
            used += len(reservation.runs) << reservation.order
            useful += len(reservation.runs) * min(slots, reservation.max_tokens)
            filled += sum(table.num_tokens for table in reservation.tables)
        accounts = [
            GroupAccount(
                kind=str(group.kind),
                num_layers=len(group.layers),
                num_used_blocks=used,
                num_filled_slots=filled,
                num_reserved_slots=useful - filled,
            )
            for group in self.layer_groups.groups
        ]
        return Ledger(
            num_blocks=self.num_blocks,
            block_size=size,
            groups=accounts,
            layers_a_group=self.layer_groups.layers_a_group,
            num_used_blocks=used * num_groups,
            num_shared_blocks=0,
            num_unshared_blocks=used * num_groups,
            num_external_slots=self.num_free_blocks * size if self._was_refused else 0,
            block_bytes=self.block_bytes,
            totals=replace(self.totals),
        )
