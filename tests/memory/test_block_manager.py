"""Blocks on demand, sharing, copy-on-write, the prefix index and pins: the invariants hold under any order of
operations."""

from collections import Counter

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

from octavo.errors import EngineError
from octavo.memory import BlockManager, BlockPool, BlockTable, Move, chain_digest, chain_root
from scheduling.checking import check_pool

ROOT = chain_root(scope="test")


def digests_of(tokens: list[int], block_size: int) -> list[bytes]:
    """Of the full blocks of a sequence with these tokens."""
    digests = [ROOT]
    for end in range(block_size, len(tokens) + 1, block_size):
        digests.append(chain_digest(digests[-1], tokens[end - block_size : end]))
    return digests[1:]


class MemoryMachine(RuleBasedStateMachine):
    """Sequences append, fork, end, and begin with what the index has, at random. A model of the memory's content shows
    whose tokens each slot holds."""

    sequences = Bundle("sequences")
    groups = Bundle("groups")
    """Sequences that are swapped out together."""

    @initialize(num_blocks=st.integers(1, 30), num_swap_blocks=st.integers(0, 30), block_size=st.integers(1, 6))
    def start(self, num_blocks: int, num_swap_blocks: int, block_size: int) -> None:
        self.memory = BlockManager(num_blocks, block_size, num_swap_blocks=num_swap_blocks)
        self.swap_space: dict[tuple[int, int], int] = {}
        self.away: dict[BlockTable, list[int]] = {}
        """The tokens of the tables in the swap space."""
        self.tokens: dict[BlockTable, list[int]] = {}
        self.content: dict[tuple[int, int], int] = {}
        self.past: list[list[int]] = [[]]
        """The tokens of every sequence that there has been."""

    @rule(target=sequences)
    def open(self) -> BlockTable:
        table = BlockTable(max_tokens=1000)
        self.tokens[table] = []
        return table

    @rule(target=sequences, data=st.data())
    def open_with_what_the_index_has(self, data: st.DataObject) -> BlockTable:
        tokens = data.draw(st.sampled_from(self.past))
        index = self.memory.pool.index
        blocks = []
        for digest in digests_of(tokens, self.memory.block_size):
            block = index.find(digest)
            if block is None:
                break
            blocks.append(block)
        num_idle = sum(index.is_idle(block) for block in blocks)
        free_before = self.memory.num_free_blocks
        table = BlockTable(max_tokens=1000)
        self.memory.adopt(table, blocks)
        assert free_before - self.memory.num_free_blocks == num_idle, "an idle block was free, a held one was not"
        self.tokens[table] = tokens[: len(blocks) * self.memory.block_size]
        return table

    @rule(table=sequences)
    def its_step_has_run(self, table: BlockTable) -> None:
        for block, digest in zip(table.block_ids, digests_of(self.tokens[table], self.memory.block_size), strict=False):
            if self.memory.pool.index.digest(block) is None:
                self.memory.pool.index.add(block, digest)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        found = [
            block
            for digest in digests_of(data.draw(st.sampled_from(self.past)), self.memory.block_size)
            if (block := self.memory.pool.index.find(digest)) is not None
        ]
        if self.memory.num_pinned_blocks + len(found) < self.memory.pool.num_blocks // 2:
            self.memory.pin(found)

    @rule(table=sequences, count=st.integers(1, 20), token=st.integers(0, 1))
    def append(self, table: BlockTable, count: int, token: int) -> None:
        memory, size = self.memory, self.memory.block_size
        before, start = table.block_ids.copy(), table.num_tokens
        last_is_shared = start % size > 0 and memory.pool.reference_counts[before[-1]] > 1
        needed = -(-(start + count) // size) - len(before) + last_is_shared
        if needed > memory.num_free_blocks:
            return
        free_before = memory.num_free_blocks
        change = memory.append(table, count)
        assert free_before - memory.num_free_blocks == needed
        assert (change is None) == (needed == 0)
        if change and change.copied:
            source, destination = change.copied
            assert source == before[-1]
            assert destination == table.block_ids[len(before) - 1]
            for offset in range(size):
                if (source, offset) in self.content:
                    self.content[destination, offset] = self.content[source, offset]
        assert (
            table.block_ids == before[: len(before) - last_is_shared] + table.block_ids[len(before) - last_is_shared :]
        )
        assert not change or table.block_ids[len(before) :] == change.appended
        for position in range(start, start + count):
            self.tokens[table].append(token)
            self.content[table.block_ids[position // size], position % size] = self._state(table, position)
        self.past.append(self.tokens[table].copy())

    def _state(self, table: BlockTable, position: int) -> int:
        """Stands for the state of a token, which depends on all tokens up to it."""
        return hash(tuple(self.tokens[table][: position + 1]))

    @rule(target=sequences, parent=sequences, data=st.data())
    def fork(self, parent: BlockTable, data: st.DataObject) -> BlockTable:
        whole_blocks = st.integers(0, parent.num_tokens // self.memory.block_size).map(
            lambda n: n * self.memory.block_size
        )
        count = data.draw(whole_blocks | st.just(parent.num_tokens))
        child = BlockTable(max_tokens=1000)
        free_before = self.memory.num_free_blocks
        assert self.memory.share(parent, child, count) == -(-count // self.memory.block_size)
        assert self.memory.num_free_blocks == free_before, "forking takes no block"
        self.tokens[child] = self.tokens[parent][:count]
        return child

    @rule(target=groups, first=consumes(sequences), second=consumes(sequences))
    def swap_out(self, first: BlockTable, second: BlockTable) -> list[BlockTable]:
        tables = [table for table in dict.fromkeys((first, second)) if table.block_ids]
        num_distinct = len({block for table in tables for block in table.block_ids})
        if num_distinct > self.memory.swap.num_free:
            return []
        saved, moves = self.memory.swap_out(tables)
        assert len(moves) == num_distinct, "each distinct block is moved once"
        self._move(moves, self.content, self.swap_space)
        for table, copy in zip(tables, saved, strict=True):
            assert not table.block_ids
            self.away[copy] = self.tokens.pop(table)
        return saved

    @rule(target=sequences, group=consumes(groups), use_index=st.booleans())
    def swap_in(self, group: list[BlockTable], use_index: bool) -> MultipleResults[BlockTable]:
        index, size = self.memory.pool.index, self.memory.block_size
        found = {}
        for saved in group if use_index else []:
            for block, digest in zip(saved.block_ids, digests_of(self.away[saved], size), strict=False):
                if (place := index.find(digest)) is not None:
                    found[block] = place
        distinct = {block for saved in group for block in saved.block_ids}
        needed = len(distinct) - len(found) + sum(index.is_idle(block) for block in set(found.values()))
        if needed > self.memory.num_free_blocks:
            for saved in group:
                self.memory.drop_saved(saved)
                del self.away[saved]
            return multiple()
        free_before = self.memory.num_free_blocks
        pairs = [(saved, BlockTable(max_tokens=1000)) for saved in group]
        moves = self.memory.swap_in(pairs, found)
        assert free_before - self.memory.num_free_blocks == needed
        assert len(moves) == len(distinct) - len(found)
        self._move(moves, self.swap_space, self.content)
        for saved, table in pairs:
            self.tokens[table] = self.away.pop(saved)
        return multiple(*(table for _, table in pairs))

    def _move(self, moves: list[Move], source: dict[tuple[int, int], int], to: dict[tuple[int, int], int]) -> None:
        for block, place in moves:
            for offset in range(self.memory.block_size):
                if (block, offset) in source:
                    to[place, offset] = source[block, offset]

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def the_swap_space_holds_what_is_away(self) -> None:
        check_pool(self.memory.swap, Counter(block for saved in self.away for block in saved.block_ids))

    @rule(table=consumes(sequences))
    def free(self, table: BlockTable) -> None:
        self.memory.free(table)
        assert table.block_ids == []
        self.tokens.pop(table, None)

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def every_sequence_reads_its_own_tokens(self) -> None:
        size = self.memory.block_size
        for table, tokens in self.tokens.items():
            assert table.num_tokens == len(tokens)
            for p in range(len(tokens)):
                assert self.content[table.block_ids[p // size], p % size] == self._state(table, p)

    @precondition(lambda self: hasattr(self, "memory"))
    @invariant()
    def counts_and_ledger_equal_a_recount(self) -> None:
        pool, size = self.memory.pool, self.memory.block_size
        pins = self.memory.pins.block_ids
        held = Counter(block for table in self.tokens for block in table.block_ids) + Counter(pins)
        check_pool(pool, held)
        assert {table for table in self.tokens if table.block_ids} == set(self.memory.tables)
        filled: dict[int, int] = dict.fromkeys(pins, size)
        for table in self.tokens:
            for logical, block in enumerate(table.block_ids):
                filled[block] = min(size, table.num_tokens - logical * size)
        assert [(state.reference_count, state.num_filled_slots) for state in self.memory.block_map()] == [
            (held[block], filled.get(block, 0)) for block in range(pool.num_blocks)
        ]
        ledger = self.memory.ledger()
        assert ledger.num_used_blocks == len(held)
        assert ledger.num_free_blocks + ledger.num_cached_blocks == pool.num_free
        assert ledger.num_shared_blocks == sum(count > 1 for count in held.values())
        assert ledger.num_unshared_blocks == held.total() - len(pins)
        assert ledger.num_filled_slots == sum(filled.values())


MemoryMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestMemoryMachine = MemoryMachine.TestCase


def test_blocks_are_taken_only_when_a_token_needs_one() -> None:
    memory, table = BlockManager(8, 16), BlockTable(100)
    assert memory.append(table, 16) == (None, table.block_ids)
    assert [memory.append(table, 1) is None for _ in range(16)] == [False] + [True] * 15
    assert len(table.block_ids) == 2


def test_the_last_writer_of_a_shared_block_keeps_it() -> None:
    memory, parent = BlockManager(8, 16), BlockTable(100)
    memory.append(parent, 20)
    shared = parent.block_ids[-1]
    children = [BlockTable(100) for _ in range(2)]
    for child in children:
        memory.share(parent, child, 20)
    assert memory.append(children[0], 1) == ((shared, children[0].block_ids[-1]), [])
    assert memory.append(children[1], 1) == ((shared, children[1].block_ids[-1]), [])
    assert memory.append(parent, 1) is None
    assert parent.block_ids[-1] == shared


def test_the_ledger_tells_reserved_from_never_used() -> None:
    memory, table = BlockManager(8, 16), BlockTable(max_tokens=20)
    memory.append(table, 18)
    ledger = memory.ledger()
    assert (ledger.num_filled_slots, ledger.num_unfilled_slots) == (18, 14)
    assert (ledger.num_reserved_slots, ledger.num_fragmented_slots, ledger.num_external_slots) == (2, 12, 0)
    assert ledger.waste == 14 / 32


def test_the_ledger_counts_what_sharing_saves() -> None:
    memory, parent = BlockManager(8, 16), BlockTable(100)
    memory.append(parent, 32)
    for _ in range(3):
        memory.share(parent, BlockTable(100), 32)
    ledger = memory.ledger()
    assert (ledger.num_used_blocks, ledger.num_unshared_blocks, ledger.sharing_savings) == (2, 8, 0.75)


def test_an_exhausted_pool_and_a_double_free_are_named_errors() -> None:
    pool = BlockPool(1, 16)
    block = pool.allocate()
    with pytest.raises(EngineError, match="all 1 KV blocks"):
        pool.allocate()
    pool.release(block)
    with pytest.raises(EngineError, match="freed twice"):
        pool.release(block)
