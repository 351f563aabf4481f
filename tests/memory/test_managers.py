"""The contract of memory managers: whatever happens in whatever order, every sequence reads its own tokens and the
account is right. One state machine for the paged manager and the contiguous ones, then what is each one's own."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from octavo.config import KVAllocation
from octavo.errors import EngineError
from octavo.layer_groups import Full, LayerGroup, LayerGroups, Window, group_layers, one_group
from octavo.memory import (
    BlockPool,
    BlockTable,
    KVManager,
    Move,
    PagedManager,
    chain_digests,
    chain_root,
    make_demand,
    make_manager,
)
from octavo.memory.contiguous import BuddyAllocator, ContiguousManager
from octavo.memory.demand import ReservedDemand
from paged_memory import paged
from scheduling.checking import check_pool, check_runs

ROOT = chain_root(scope="test")


def digests_of(tokens: list[int], block_size: int) -> list[bytes]:
    """Of the full blocks of a sequence with these tokens."""
    return chain_digests(ROOT, tokens, block_size)


def names_of(tokens: list[int], block_size: int) -> Callable[[int], list[bytes]]:
    digests = digests_of(tokens, block_size)
    return lambda logical: [digests[logical]]


GROUPS = [
    one_group(2),
    one_group(2, Window(4)),
    group_layers([Full(), Window(5)]),
    group_layers([Window(3), Full(), Window(9), Window(3)]),
]
MAX_TOKENS = 200
RUN_TOKENS, MAX_SEQUENCES = 60, 3
"""What a contiguous manager is asked to reserve: for each sequence, and how many of these."""
ALLOCATIONS: list[KVAllocation] = ["paged", "contiguous-max", "contiguous-pow2", "contiguous-oracle"]
Slot = tuple[int, int]


class ManagerMachine(RuleBasedStateMachine):
    """Sequences append, fork, pass their windows, are cut, end, and begin with what the index has, at random. A model
    of the memory's content shows whose tokens each slot holds."""

    memory: KVManager

    sequences = Bundle("sequences")
    groups = Bundle("groups")
    """Sequences that are swapped out together."""

    @initialize(
        num_blocks=st.integers(1, 60),
        num_swap_blocks=st.integers(0, 60),
        block_size=st.integers(1, 6),
        layer_groups=st.sampled_from(GROUPS),
        allocation=st.sampled_from(ALLOCATIONS),
    )
    def start(
        self,
        num_blocks: int,
        num_swap_blocks: int,
        block_size: int,
        layer_groups: LayerGroups,
        allocation: KVAllocation,
    ) -> None:
        if allocation != "paged":
            num_blocks *= 10
        demand = make_demand(allocation, block_size, layer_groups, max_model_len=MAX_TOKENS, max_tokens_in_flight=20)
        self.memory = make_manager(demand, num_blocks, num_swap_blocks=num_swap_blocks)
        self.kinds = layer_groups.kinds
        self.content: dict[Slot, int] = {}
        self.swap_space: dict[Slot, int] = {}
        self.tokens: dict[BlockTable, list[int]] = {}
        self.away: dict[BlockTable, list[int]] = {}
        """The tokens of the tables in the swap space."""
        self.family: dict[BlockTable, list[BlockTable]] = {}
        """The tables of one request, for each of them."""
        self.past: list[list[int]] = [[]]
        """The tokens of every sequence that there has been."""

    def _names(self, tokens: list[int]) -> Callable[[int], list[bytes]]:
        return names_of(tokens, self.memory.block_size)

    @rule(target=sequences)
    def open(self) -> BlockTable | MultipleResults[BlockTable]:
        table = self.memory.new_table(MAX_TOKENS)
        used_before = self.memory.num_used_blocks
        if not self.memory.reserve([table], MAX_SEQUENCES, 1, RUN_TOKENS):
            assert self.memory.num_used_blocks == used_before, "what could not be reserved whole was kept in part"
            return multiple()
        self.tokens[table] = []
        self.family[table] = [table]
        return table

    @rule(target=sequences, data=st.data())
    def open_with_what_the_index_has(self, data: st.DataObject) -> BlockTable | MultipleResults[BlockTable]:
        tokens, size = data.draw(st.sampled_from(self.past)), self.memory.block_size
        hit = self.memory.find_prefix(len(tokens) // size, self._names(tokens))
        assert not isinstance(self.memory, PagedManager) or hit.num_blocks == self._longest_prefix(tokens)
        num_idle = self.memory.num_idle(hit.blocks)
        free_before = self.memory.num_free_blocks
        table = self.memory.new_table(MAX_TOKENS)
        if not hit.num_blocks:
            return multiple()
        self.memory.hold(table, hit)
        self.family[table] = [table]
        assert free_before - self.memory.num_free_blocks == num_idle, "an idle block was free, a held one was not"
        self.tokens[table] = tokens[: hit.num_blocks * size]
        return table

    def _longest_prefix(self, tokens: list[int]) -> int:
        """By trying every length, the longest first."""
        assert isinstance(self.memory, PagedManager)
        index, size = self.memory.pool.index, self.memory.block_size
        digests = digests_of(tokens, size)
        for length in range(len(digests), -1, -1):
            needed = [
                (group, [digests[logical]])
                for group, kind in enumerate(self.kinds)
                for logical in range(kind.first_seen(length * size) // size, length)
            ]
            if all(index.find(*name) is not None for name in needed):
                return length
        raise AssertionError("nothing is always found")

    @rule(table=sequences)
    def its_step_has_run(self, table: BlockTable) -> None:
        digests = digests_of(self.tokens[table], self.memory.block_size)
        self.memory.index_blocks(table, 0, len(digests), digests.__getitem__)
        self.memory.release_passed(table, table.num_tokens)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        tokens = data.draw(st.sampled_from(self.past))
        hit = self.memory.find_prefix(len(tokens) // self.memory.block_size, self._names(tokens))
        if self.memory.num_pinned_blocks + len(list(hit.blocks)) < self.memory.num_blocks // 2:
            self.memory.pin(hit)

    @rule(table=sequences, count=st.integers(1, 20), token=st.integers(0, 1))
    def append(self, table: BlockTable, count: int, token: int) -> None:
        memory, start = self.memory, table.num_tokens
        needed = memory.num_blocks_to_append(table, start, count) + memory.num_copies_to_write([(table, start, False)])
        if needed > memory.num_free_blocks:
            return
        before = [blocks.copy() for blocks in table.groups]
        free_before = memory.num_free_blocks
        change = memory.append(table, count)
        assert free_before - memory.num_free_blocks == needed
        assert memory.forks_copy or (change is None) == (needed == 0)
        copies, replaced, appended = change or ([], [], [])
        for source, destination in copies:
            self._copy(source, self.content, destination, self.content)
        if replaced:
            before = [[*blocks[:-1], last] for blocks, last in zip(before, replaced, strict=True)]
        num_new = len(appended) // len(before)
        for group, blocks in enumerate(before):
            assert table.groups[group] == blocks + appended[group * num_new : (group + 1) * num_new]
        for position in range(start, start + count):
            self.tokens[table].append(token)
            self._write(table, position)
        self.past.append(self.tokens[table].copy())

    def _write(self, table: BlockTable, position: int) -> None:
        logical, offset = divmod(position, self.memory.block_size)
        for group, blocks in enumerate(table.groups):
            self.content[blocks[logical], offset] = self._state(table, position, group)

    def _state(self, table: BlockTable, position: int, group: int) -> int:
        """Stands for the state of a token, which depends on all tokens up to it."""
        return hash((group, tuple(self.tokens[table][: position + 1])))

    @rule(target=sequences, parent=sequences, data=st.data())
    def fork(self, parent: BlockTable, data: st.DataObject) -> BlockTable | MultipleResults[BlockTable]:
        if self.memory.forks_copy and (len(self.family[parent]) == MAX_SEQUENCES or not parent.num_tokens):
            return multiple()
        size = self.memory.block_size
        whole_blocks = st.integers(0, parent.num_tokens // size).map(lambda n: n * size)
        count = data.draw(whole_blocks | st.just(parent.num_tokens))
        if not self.memory.can_fork(parent, count):
            count = parent.num_tokens
            assert self.memory.can_fork(parent, count)
        child = self.memory.new_table(MAX_TOKENS)
        free_before = self.memory.num_free_blocks
        fork = self.memory.fork(parent, child, count)
        assert fork.num_shared + len(fork.appended) // len(self.kinds) == child.num_blocks == -(-count // size)
        self.family[child] = self.family[parent]
        self.family[child].append(child)
        assert self.memory.num_free_blocks == free_before, "forking takes no block"
        self.tokens[child] = self.tokens[parent][:count]
        if self.memory.forks_copy:
            self.append(child, 1, 0)  # a copy is made when the child first writes
        return child

    @rule(table=sequences, data=st.data())
    def truncate(self, table: BlockTable, data: st.DataObject) -> None:
        """To a length whose next token still sees what it must, and not into a block that others may find."""
        size = self.memory.block_size
        lengths = [
            n
            for n in range(table.num_tokens + 1)
            if self.memory.can_fork(table, n)
            and not (n % size and any(self._is_indexed(blocks[n // size]) for blocks in table.groups))
        ]
        count = data.draw(st.sampled_from(lengths))
        self.memory.truncate(table, count)
        assert table.num_blocks == -(-count // self.memory.block_size)
        del self.tokens[table][count:]

    def _is_indexed(self, block: int) -> bool:
        return isinstance(self.memory, PagedManager) and self.memory.pool.index.name(block) is not None

    @rule(target=groups, first=consumes(sequences), second=consumes(sequences))
    def swap_out(self, first: BlockTable, second: BlockTable) -> list[BlockTable]:
        if self.memory.forks_copy:
            for table in dict.fromkeys((first, second)):
                self.free(table)
            return []
        tables = [table for table in dict.fromkeys((first, second)) if table.num_blocks]
        num_distinct = self.memory.num_distinct_blocks(tables)
        if num_distinct > self.memory.num_free_swap_blocks:
            return []
        saved, moves = self.memory.swap_out(tables)
        assert len(moves) == num_distinct, "each distinct block is moved once"
        self._move(moves, self.content, self.swap_space)
        for table, copy in zip(tables, saved, strict=True):
            assert not table.held
            self.away[copy] = self.tokens.pop(table)
            self.family[table].remove(table)
        return saved

    @rule(target=sequences, group=consumes(groups), use_index=st.booleans())
    def swap_in(self, group: list[BlockTable], use_index: bool) -> MultipleResults[BlockTable]:
        found: dict[int, int] = {}
        for saved in group if use_index else []:
            found |= self.memory.find_blocks(saved, self._names(self.away[saved]))
        distinct = {block for saved in group for block in saved.held}
        needed = len(distinct) - len(found) + self.memory.num_idle(set(found.values()))
        if needed > self.memory.num_free_blocks:
            for saved in group:
                self.memory.drop_saved(saved)
                del self.away[saved]
            return multiple()
        free_before = self.memory.num_free_blocks
        pairs = [(saved, saved.fresh()) for saved in group]
        moves = self.memory.swap_in(pairs, found)
        assert free_before - self.memory.num_free_blocks == needed
        assert len(moves) == len(distinct) - len(found)
        self._move(moves, self.swap_space, self.content)
        for saved, table in pairs:
            self.tokens[table] = self.away.pop(saved)
            self.family[table] = [table]
        return multiple(*(table for _, table in pairs))

    def _move(self, moves: list[Move], source: dict[Slot, int], destination: dict[Slot, int]) -> None:
        for block, place in moves:
            self._copy(block, source, place, destination)

    def _copy(self, block: int, source: dict[Slot, int], place: int, destination: dict[Slot, int]) -> None:
        for offset in range(self.memory.block_size):
            if (block, offset) in source:
                destination[place, offset] = source[block, offset]

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def the_swap_space_holds_what_is_away(self) -> None:
        if isinstance(self.memory, PagedManager):
            check_pool(self.memory.swap.pool, Counter(block for saved in self.away for block in saved.held))

    @rule(table=consumes(sequences))
    def free(self, table: BlockTable) -> None:
        self.memory.free(table)
        assert not table.held
        self.tokens.pop(table, None)
        self.family.pop(table).remove(table)

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def every_sequence_reads_its_own_tokens(self) -> None:
        size = self.memory.block_size
        for table, tokens in self.tokens.items():
            assert table.num_tokens == len(tokens)
            for group, (kind, blocks) in enumerate(zip(self.kinds, table.groups, strict=True)):
                for p in range(kind.first_seen(len(tokens)), len(tokens)):
                    assert self.content[blocks[p // size], p % size] == self._state(table, p, group)

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def counts_and_ledger_equal_a_recount(self) -> None:
        size = self.memory.block_size
        assert {table for table in self.tokens if table.num_blocks} <= set(self.memory.tables)
        if isinstance(self.memory, ContiguousManager):
            check_runs(self.memory, self.tokens.keys())
            return
        assert isinstance(self.memory, PagedManager)
        pool, pins = self.memory.pool, self.memory.pins
        held = Counter(block for table in self.tokens for block in table.held) + Counter(pins.keys())
        check_pool(pool, held)
        filled: dict[int, int] = dict.fromkeys(pins, size)
        for table in self.tokens:
            for blocks, first in zip(table.groups, table.firsts, strict=True):
                for logical in range(first, len(blocks)):
                    slots = min(size, table.num_tokens - logical * size)
                    filled[blocks[logical]] = max(filled.get(blocks[logical], 0), slots)
        ledger = self.memory.ledger()
        assert ledger.num_used_blocks == sum(group.num_used_blocks for group in ledger.groups) == len(held)
        assert ledger.num_free_blocks + ledger.num_cached_blocks == pool.num_free
        assert ledger.num_shared_blocks == sum(count > 1 for count in held.values())
        assert ledger.num_unshared_blocks == held.total() - len(pins)
        assert ledger.num_filled_slots == sum(filled.values())


ManagerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestManagerMachine = ManagerMachine.TestCase


def test_blocks_are_taken_only_when_a_token_needs_one() -> None:
    memory = paged(8, 16)
    table = memory.new_table(100)
    assert memory.append(table, 16) == ([], [], table.groups[0])
    assert [memory.append(table, 1) is None for _ in range(16)] == [False] + [True] * 15
    assert table.num_blocks == 2


def test_the_last_writer_of_a_shared_block_keeps_it() -> None:
    memory = paged(8, 16)
    parent = memory.new_table(100)
    memory.append(parent, 20)
    shared = parent.groups[0][-1]
    children = [memory.new_table(100) for _ in range(2)]
    for child in children:
        memory.fork(parent, child, 20)
    for child in children:
        change = memory.append(child, 1)
        own = child.groups[0][-1]
        assert change == ([(shared, own)], [own], [])
    assert memory.append(parent, 1) is None
    assert parent.groups[0][-1] == shared


def test_a_window_group_lets_go_of_what_it_has_passed_and_it_stays_findable() -> None:
    memory = paged(20, 4, group_layers([Full(), Window(6)]))
    tokens = list(range(24))
    digests, names = digests_of(tokens, 4), names_of(tokens, 4)
    table = memory.new_table(100)
    memory.append(table, 24)
    memory.index_blocks(table, 0, 6, digests.__getitem__)
    memory.release_passed(table, 24)
    # The next token, at position 24, sees 19 to 24: the window's blocks 0 to 3 are behind it.
    assert table.firsts == [0, 4]
    assert memory.ledger().num_used_blocks == 6 + 2
    assert memory.find_prefix(6, names).num_blocks == 6
    short = memory.find_prefix(3, names)
    assert (short.num_blocks, short.firsts) == (3, [0, 1]), "blocks that were let go serve a shorter prefix"
    memory.append(memory.new_table(100), 20)
    assert memory.find_prefix(3, names).num_blocks == 0, "the window's blocks were needed"


def test_the_ledger_tells_each_groups_blocks_and_the_padding() -> None:
    memory = paged(20, 4, group_layers([Full(), Full(), Window(4), Window(4), Window(4)]), block_bytes=600)
    table = memory.new_table(10)
    memory.append(table, 9)
    memory.release_passed(table, 9)
    ledger = memory.ledger()
    layers = [(group.kind, group.num_layers, group.num_used_blocks) for group in ledger.groups]
    assert layers == [("full", 1, 3), ("full", 1, 3), ("window(4)", 1, 2), ("window(4)", 1, 2), ("window(4)", 1, 2)]
    assert ledger.padding_bytes == 0
    wide = paged(20, 4, LayerGroups((LayerGroup(Full(), (0, 1, 2)), LayerGroup(Window(4), (3,))), 3), block_bytes=600)
    table = wide.new_table(8)
    wide.append(table, 8)
    ledger = wide.ledger()
    assert ledger.padding_bytes == 2 * 600 * 2 // 3
    assert ledger.waste == pytest.approx(1 - 4 / 6)


def test_the_ledger_tells_reserved_from_never_used() -> None:
    memory = paged(8, 16)
    memory.append(memory.new_table(20), 18)
    ledger = memory.ledger()
    assert (ledger.num_filled_slots, ledger.num_unfilled_slots) == (18, 14)
    assert (ledger.num_reserved_slots, ledger.num_fragmented_slots, ledger.num_external_slots) == (2, 12, 0)
    assert ledger.waste == 14 / 32


def test_the_ledger_counts_what_sharing_saves() -> None:
    memory = paged(8, 16)
    parent = memory.new_table(100)
    memory.append(parent, 32)
    for _ in range(3):
        memory.fork(parent, memory.new_table(100), 32)
    ledger = memory.ledger()
    assert (ledger.num_used_blocks, ledger.num_unshared_blocks, ledger.sharing_savings) == (2, 8, 0.75)


def test_an_exhausted_pool_and_a_double_free_are_named_errors() -> None:
    pool = BlockPool(1)
    block = pool.allocate(0)
    with pytest.raises(EngineError, match="all 1 KV blocks"):
        pool.allocate(0)
    pool.release(block)
    with pytest.raises(EngineError, match="freed twice"):
        pool.release(block)


class BuddyMachine(RuleBasedStateMachine):
    """Runs come and go; a model knows which blocks are taken."""

    runs = Bundle("runs")

    @initialize(num_blocks=st.integers(0, 100))
    def start(self, num_blocks: int) -> None:
        self.buddies = BuddyAllocator(num_blocks)
        self.taken: set[int] = set()

    @rule(target=runs, order=st.integers(0, 5))
    def allocate(self, order: int) -> tuple[int, int] | MultipleResults[tuple[int, int]]:
        longest = max((length for _, length in self.buddies.free_runs), default=0)
        first = self.buddies.allocate(order)
        assert (first is None) == (longest < 1 << order), "a run that is long enough was not found"
        if first is None:
            return multiple()
        blocks = set(range(first, first + (1 << order)))
        assert not blocks & self.taken
        assert blocks <= set(range(self.buddies.num_blocks))
        self.taken |= blocks
        return first, order

    @rule(run=consumes(runs))
    def free(self, run: tuple[int, int]) -> None:
        first, order = run
        self.buddies.free(first, order)
        self.taken -= set(range(first, first + (1 << order)))

    @precondition(lambda self: hasattr(self, "buddies"))
    @invariant()
    def free_runs_are_what_is_not_taken_and_none_could_be_merged(self) -> None:
        free = [block for first, length in self.buddies.free_runs for block in range(first, first + length)]
        assert sorted(free) == sorted(set(range(self.buddies.num_blocks)) - self.taken)
        assert self.buddies.num_free == len(free)
        if not self.taken:
            assert self.buddies.free_runs == BuddyAllocator(self.buddies.num_blocks).free_runs


BuddyMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBuddyMachine = BuddyMachine.TestCase


@pytest.mark.parametrize(("policy", "num_blocks"), [("max", 128), ("pow2", 32), ("oracle", 16)])
def test_a_reserve_policy_takes_the_papers_lengths_in_powers_of_two(policy: Any, num_blocks: int) -> None:
    demand = ReservedDemand(policy, 16, one_group(2), max_model_len=2048)
    assert demand.of_request(100, 230, 1) == num_blocks, "of 2048; of 100 + 256; of 230"
    assert demand.of_request(100, 230, 3) == 3 * num_blocks
    assert demand.longest(100, 1, num_blocks, 2048) >= 230


def test_contiguous_memory_counts_the_papers_three_kinds_of_waste() -> None:
    memory = ContiguousManager(24, ReservedDemand("max", 16, one_group(2), max_model_len=200))
    table = memory.new_table(150)
    assert memory.reserve([table], 1, 100, 150)
    memory.append(table, 100)
    ledger = memory.ledger()
    # A run of 16 blocks for 200 tokens: 100 are there, 50 may come, the others never do.
    assert (ledger.num_used_blocks, ledger.num_filled_slots, ledger.num_reserved_slots) == (16, 100, 50)
    assert (ledger.num_fragmented_slots, ledger.num_external_slots) == (106, 0)
    assert not memory.reserve([memory.new_table(150)], 1, 100, 150)
    ledger = memory.ledger()
    assert ledger.num_external_slots == 8 * 16, "what is free serves nobody who waits"
    assert ledger.waste == pytest.approx(1 - 100 / (24 * 16))
