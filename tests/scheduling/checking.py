"""An executor and a check that believe nothing the scheduler says: they recount everything from the plans and from the
tables."""

from collections import Counter
from collections.abc import Iterable, Mapping
from copy import deepcopy

from octavo.engine.engine import Engine
from octavo.execution.executor import Capabilities, Capacity, PendingOutput
from octavo.execution.plan import NO_ADAPTER, Plan
from octavo.execution.simulated import SimulatedExecutor, beam_state, hashed_candidates, hashed_token
from octavo.layer_groups import LayerGroups, one_group
from octavo.memory import BlockPool, BlockTable, PagedManager
from octavo.memory.contiguous import ContiguousManager
from octavo.scheduling.scheduler import Scheduler


def capacity(
    num_blocks: int,
    block_size: int = 16,
    max_model_len: int = 4096,
    vocab_size: int = 50_000,
    eos: int | None = None,
    num_swap_blocks: int = 0,
    layer_groups: LayerGroups | None = None,
    max_drafts: int = 0,
    capabilities: Capabilities | None = None,
) -> Capacity:
    return Capacity(
        num_blocks=num_blocks,
        num_swap_blocks=num_swap_blocks,
        block_size=block_size,
        block_bytes=1,
        layer_groups=layer_groups or one_group(1),
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        max_drafts=max_drafts,
        eos_token_ids=frozenset() if eos is None else frozenset({eos}),
        capabilities=capabilities or Capabilities(),
    )


EVERYONE = 0
NOTHING = (0, EVERYONE)
Memory = list[list[tuple[int, int]]]


def seed_of(owner: int, number: int) -> int:
    """A seed that tells a row's owner: only rows of one owner may see each other's states. Those of `EVERYONE`, pins,
    are for all."""
    return owner << 32 | number


class ShadowRow:
    """A row as the runner would keep it. `prints[p]` stands for the state of token p: it depends on the tokens 0 to p,
    on the adapter and on nothing else."""

    def __init__(
        self, prints: list[int], key: tuple[int, int, int], num_groups: int, adapter: int = NO_ADAPTER
    ) -> None:
        self.prints = prints
        self.key = key
        self.adapter = adapter
        self.owner = key[0] >> 32
        self.tables: list[list[int]] = [[] for _ in range(num_groups)]
        self.num_candidates = 0
        self.chosen: list[int] = []
        """What beam search has chosen for the row."""

    def append(self, token: int) -> None:
        self.prints.append(hash((self.prints[-1] if self.prints else self.adapter, token)))


class ShadowExecutor(SimulatedExecutor):
    """Holds a stand-in for every token state and asserts that each row, in each step, sees exactly the states of its
    own tokens."""

    def __init__(self, capacity: Capacity, depth: int = 1) -> None:
        super().__init__(capacity, depth=depth)
        self.kinds = capacity.layer_groups.kinds
        self.shadows: dict[int, ShadowRow] = {}
        self.content = [[NOTHING] * capacity.block_size for _ in range(capacity.num_blocks)]
        """For each slot the state in it, and its owner."""
        self.swap_space = [[NOTHING] * capacity.block_size for _ in range(capacity.num_swap_blocks)]
        self.num_copied = self.num_moved = 0

    def submit(self, plan: Plan) -> PendingOutput:
        self._edit_rows(plan)
        self._move(self.content, self.swap_space, plan.swap_out)
        self._move(self.swap_space, self.content, plan.swap_in)
        self._copy(plan)
        self._write(plan)
        self._read(plan)
        step = super().submit(plan)
        self._sample(plan, step)
        return step

    def _edit_rows(self, plan: Plan) -> None:
        shadows = self.shadows
        for row, num_blocks in plan.truncated:
            for table in shadows[row].tables:
                assert len(table) >= num_blocks
                del table[num_blocks:]
        for row in plan.released:
            shadows[row].tables = [[] for _ in self.kinds]
        for row in plan.removed:
            del shadows[row]
        for new in plan.added:
            assert new.row not in shadows
            shadow = shadows[new.row] = ShadowRow([], (new.seed, new.index, 0), len(self.kinds), new.adapter)
            shadow.num_candidates = new.num_candidates
            for token in new.token_ids:
                shadow.append(token)
        for fork in plan.forked:
            assert fork.row not in shadows
            parent = shadows[fork.parent]
            key = (parent.key[0], fork.index, parent.key[2])
            shadow = shadows[fork.row] = ShadowRow(parent.prints.copy(), key, len(self.kinds), parent.adapter)
            shadow.num_candidates, shadow.chosen = parent.num_candidates, parent.chosen.copy()
        for row, token in plan.chosen:
            shadows[row].append(token)
            shadows[row].chosen.append(token)
        for edit in plan.tables:
            num_new, rest = divmod(len(edit.appended), len(self.kinds))
            assert rest == 0
            assert len(edit.replaced) in (0, len(self.kinds))
            for group, table in enumerate(shadows[edit.row].tables):
                if edit.parent >= 0:
                    assert not table
                    table += shadows[edit.parent].tables[group][: edit.num_shared]
                    assert len(table) == edit.num_shared
                if edit.replaced:
                    table[-1] = edit.replaced[group]
                table += edit.appended[group * num_new : (group + 1) * num_new]
        for index, drafts in plan.drafts:
            assert 0 < len(drafts) <= self.capacity.max_drafts
            for token in drafts:
                shadows[plan.rows[index]].append(token)

    def _move(self, source: Memory, destination: Memory, moves: list[tuple[int, int]]) -> None:
        """What has come back is wiped where it was: nobody may count on it there."""
        assert len({block for _, block in moves}) == len(moves), "two blocks are moved to one place"
        for block, place in moves:
            destination[place] = source[block].copy()
        if source is self.swap_space:
            for block, _ in moves:
                source[block] = [NOTHING] * self.capacity.block_size
        self.num_moved += len(moves)

    def _copy(self, plan: Plan) -> None:
        destinations = [destination for _, destination in plan.copies]
        assert len(set(destinations)) == len(destinations)
        assert not {source for source, _ in plan.copies} & set(destinations)
        for source, destination in plan.copies:
            self.content[destination] = self.content[source].copy()
        self.num_copied += len(destinations)

    def _write(self, plan: Plan) -> None:
        written: set[tuple[int, int]] = set()
        size = self.capacity.block_size
        for row, start, num_new in zip(plan.rows, plan.starts, plan.num_new, strict=True):
            shadow = self.shadows[row]
            for position in range(start, start + num_new):
                for group, table in enumerate(shadow.tables):
                    block, offset = table[position // size], position % size
                    assert (block, offset) not in written, "two rows write one slot"
                    written.add((block, offset))
                    self.content[block][offset] = (shadow.prints[position] + group, shadow.owner)

    def _read(self, plan: Plan) -> None:
        size = self.capacity.block_size
        for row, start, num_new in zip(plan.rows, plan.starts, plan.num_new, strict=True):
            shadow, end = self.shadows[row], start + num_new
            for group, (kind, table) in enumerate(zip(self.kinds, shadow.tables, strict=True)):
                first = kind.first_seen(start)
                seen = [state for block in table for state in self.content[block]][first:end]
                own = [state + group for state in shadow.prints[first:end]]
                assert [state for state, _ in seen] == own, f"row {row} does not see its own tokens"
                assert {owner for _, owner in seen} <= {shadow.owner, EVERYONE}, f"row {row} sees another owner's"
                assert len(table) == -(-end // size), "more than the last block is unfilled"

    def _sample(self, plan: Plan, step: PendingOutput) -> None:
        drafts = dict(plan.drafts)
        assert drafts.keys() <= set(plan.logits_from)
        for row, source, token_ids in zip(plan.sampled_rows, plan.logits_from, step.result().token_ids, strict=True):
            shadow, parent = self.shadows[row], self.shadows[plan.rows[source]]
            end = plan.starts[source] + plan.num_new[source]
            assert end == len(shadow.prints), "sampled before all its tokens were computed"
            assert parent.prints[end - 1] == shadow.prints[end - 1], "sampled from another sequence's logits"
            if shadow.num_candidates:
                assert source not in drafts
                assert not token_ids
                continue
            guesses = drafts.get(source, [])
            num_accepted = len(token_ids) - 1
            assert token_ids[:num_accepted] == guesses[:num_accepted]
            assert num_accepted == len(guesses) or token_ids[-1] != guesses[num_accepted], "a right draft was dropped"
            del shadow.prints[len(shadow.prints) - len(guesses) + num_accepted :]
            for token in token_ids:
                assert token == hashed_token(*shadow.key, self.capacity.vocab_size)
                shadow.key = (*shadow.key[:2], shadow.key[2] + 1)
        for row, token_ids in zip(plan.sampled_rows, step.result().token_ids, strict=True):
            for token in token_ids[-1:]:
                self.shadows[row].append(token)
        for index, candidates in step.result().candidates:
            shadow = self.shadows[plan.sampled_rows[index]]
            state = beam_state(shadow.key[0], shadow.chosen)
            assert candidates == hashed_candidates(state, shadow.num_candidates, self.capacity.vocab_size)


def check_pool(pool: BlockPool, counts: Mapping[int, int]) -> None:
    """Blocks are held as often as `counts` says, each other one is free, and the index agrees with both."""
    assert {block: count for block, count in enumerate(pool.reference_counts) if count} == dict(counts)
    idle = set(pool.index._idle)
    assert not idle & counts.keys()
    assert sorted(pool._free) == sorted(set(range(pool.num_blocks)) - counts.keys() - idle)
    assert idle <= set(pool.index._blocks.values()) <= idle | counts.keys()
    assert all(pool.index.name(block) == name for name, block in pool.index._blocks.items())
    assert set(pool.index._names) <= idle | counts.keys()
    assert all(pool.group_of(block) == group for block, (group, _) in pool.index._names.items())
    assert pool.num_used_by_group == [
        sum(pool.group_of(block) == group for block in counts) for group in range(len(pool.num_used_by_group))
    ]


def check_runs(memory: ContiguousManager, tables: Iterable[BlockTable]) -> None:
    """Every table lies at the beginning of a run of its own, and runs and free runs make up the memory."""
    runs = [
        (first, 1 << reservation.order)
        for reservation in set(memory._reservations.values())
        for run in reservation.runs
        for first in run
    ]
    pieces = sorted(runs + memory._buddies.free_runs)
    assert [first for first, _ in pieces] == [sum(length for _, length in pieces[:i]) for i in range(len(pieces))]
    assert sum(length for _, length in pieces) == memory.num_blocks
    lengths, firsts = dict(runs), set()
    for table in tables:
        for blocks in table.groups:
            if blocks:
                assert blocks == list(range(blocks[0], blocks[0] + len(blocks)))
                assert len(blocks) <= lengths[blocks[0]]
                assert blocks[0] not in firsts
                firsts.add(blocks[0])
    ledger = memory.ledger()
    assert ledger.num_used_blocks == memory.num_used_blocks == sum(length for _, length in runs)
    assert ledger.num_filled_slots == sum(table.num_tokens * len(table.groups) for table in tables)
    assert ledger.num_unfilled_slots == ledger.num_reserved_slots + ledger.num_fragmented_slots
    assert min(ledger.num_reserved_slots, ledger.num_fragmented_slots) >= 0


def check_engine(engine: Engine) -> None:
    """Recount the memory from the tables and compare with the pool, the ledger and the rules of who may hold what."""
    scheduler = engine.scheduler
    memory, limits = scheduler.memory, scheduler.limits
    running, waiting = scheduler.running, scheduler.queues.waiting
    assert not any(s.table.held for r in waiting for s in r.sequences), "a waiting request holds blocks"
    assert sum(r.num_places for r in running) == scheduler.queues.num_running_sequences <= limits.max_num_seqs
    assert all(len(r.sequences) <= r.num_places for r in running + waiting)
    for queue in (running, waiting):
        assert [r.rank for r in queue] == sorted(r.rank for r in queue), "somebody stands before one of a lower rank"
    if scheduler.policy.name in ("fcfs", "static"):
        comes_whole = [
            r for r in running + waiting if limits.num_at_once(r.message.params) == r.message.params.num_sequences
        ]
        arrivals = [r.message.arrival_s for r in comes_whole]
        assert arrivals == sorted(arrivals), "a later arrival runs before an earlier one"
    if isinstance(memory, ContiguousManager):
        check_runs(memory, [s.table for r in running for s in r.sequences])
        return
    assert isinstance(memory, PagedManager)
    pool, size = memory.pool, limits.block_size
    tables = [s.table for r in running for s in r.sequences if s.table.num_blocks]
    assert set(map(id, tables)) == set(map(id, memory.tables))
    assert all(s.saved is None for r in running for s in r.sequences), "a running request is in the swap space"
    saved = [s.saved for r in waiting for s in r.sequences if s.saved is not None]
    check_pool(memory.swap.pool, Counter(block for table in saved for block in table.held))
    assert all(len(b) == -(-table.num_tokens // size) for table in saved for b in table.groups)

    counts: Counter[int] = Counter(memory.pins.keys())
    filled: dict[int, int] = dict.fromkeys(memory.pins, size)
    assert limits.num_blocks == pool.num_blocks - len(counts)
    for table in tables:
        counts.update(table.held)
        for kind, blocks, first in zip(memory.layer_groups.kinds, table.groups, table.firsts, strict=True):
            assert len(blocks) == -(-table.num_tokens // size), "blocks beyond the last token's"
            assert first * size <= kind.first_seen(table.num_tokens), "a block was let go that a later token sees"
            for logical in range(first, len(blocks)):
                slots = min(size, table.num_tokens - logical * size)
                filled[blocks[logical]] = max(filled.get(blocks[logical], 0), slots)
        assert table.num_writable in (table.num_tokens, len(table.groups[0]) * size)
        if table.num_writable > table.num_tokens and table.num_tokens % size:
            last = [blocks[-1] for blocks in table.groups]
            assert all(pool.reference_counts[block] == 1 for block in last), "a shared block would be written"
    check_pool(pool, counts)
    ledger = memory.ledger()
    assert ledger.num_used_blocks == len(counts)
    assert ledger.num_shared_blocks == sum(count > 1 for count in counts.values())
    assert ledger.num_unshared_blocks == sum(counts.values()) - len(memory.pins)
    assert ledger.num_used_blocks + ledger.num_cached_blocks + ledger.num_free_blocks == pool.num_blocks
    assert ledger.num_filled_slots == sum(filled.values())
    assert ledger.num_swapped_blocks == len({block for table in saved for block in table.held})
    assert ledger.num_unfilled_slots == ledger.num_reserved_slots + ledger.num_fragmented_slots
    assert 0 <= ledger.num_reserved_slots <= ledger.num_unfilled_slots


def check_drafts(engine: Engine) -> None:
    """The next step preempts the same requests as if there were no drafts, in the steps in flight neither. Both are
    planned on copies."""
    if not any(request.is_speculated for request in engine.scheduler.running):
        return
    plain = deepcopy(engine.scheduler)
    for request in plain.running:
        request.drafts.clear()
        for sequence in request.sequences:
            plain._writer.take_back_drafts(sequence)
    assert _preempts(deepcopy(engine.scheduler)) == _preempts(plain), "drafts are the reason of a preemption"


def _preempts(scheduler: Scheduler) -> set[str]:
    """The requests that planning a step preempts."""
    running = scheduler.running
    scheduler.schedule()
    return {request.request_id for request in running if not request.is_running}
