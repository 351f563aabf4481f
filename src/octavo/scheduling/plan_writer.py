"""The one writer of plans: whatever changes between two steps, from an admission to the tokens that are sampled, goes
into the next plan through it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from octavo.execution.plan import ForkedRow, NewRow, Plan, TableEdit
from octavo.memory import BlockTable, Fork, KVManager, Move, TableChange
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import NO_ROW, SequenceState

NO_CHANGE = TableChange([], [], [])
NO_FORK = Fork(0, [])


@dataclass(slots=True)
class ScheduledStep:
    """A plan and the scheduler's own note of who waits for its results."""

    plan: Plan
    sampled: list[SequenceState] = field(default_factory=list)
    """In the order of `plan.sampled_rows`."""
    pooled: list[SequenceState] = field(default_factory=list)
    """In the order of `plan.pooled`."""
    scored: list[tuple[Request, int]] = field(default_factory=list)
    """In the order of `plan.scored`: the request and the first position."""
    filled: list[tuple[SequenceState, BlockTable, int, int]] = field(default_factory=list)
    """Blocks that are full once the step has run, those of drafts included: a sequence's, by first logical block and
    the one after the last. The table is shorter by then if drafts were taken back, and empty if the sequence has lost
    its blocks."""
    drafted: dict[int, tuple[BlockTable, int]] = field(default_factory=dict)
    """By the index in `sampled`, the tables of sequences that have slots for drafts, and for how many: those of drafts
    that are not accepted are taken back once the step has run."""
    passed: list[tuple[SequenceState, BlockTable, int]] = field(default_factory=list)
    """Sequences of models with windows, and how many slots they have filled once the step has run, those of drafts
    included: what no later token sees is let go then."""


class PlanWriter:
    """Owns the next plan, and the rows: the small numbers 0, 1, 2 … under which the runner knows sequences. Numbers
    that were given back come first again, so that the runner's arrays stay as small as the sequences alive."""

    def __init__(self, memory: KVManager) -> None:
        self._memory = memory
        self._block_size = memory.block_size
        self._has_windows = memory.demand.has_windows
        self._step = ScheduledStep(Plan())
        self._free_rows: list[int] = []
        self._num_rows = 0
        self._forked: dict[int, ForkedRow] = {}
        """Rows that beams have got since the last plan; one whose beam is dropped before it is told of never was."""
        self._chosen: dict[int, int] = {}

    # Between two steps.

    def lose_blocks(self, request: Request) -> None:
        """A request is preempted: its rows keep their tokens, and lose their tables."""
        self._step.plan.released += [sequence.row for sequence in request.sequences if sequence.table.num_blocks]

    def take_back_drafts(self, sequence: SequenceState) -> None:
        """Take back the slots of the sequence's drafts that are not its tokens, if it has any, and tell the runner. A
        sequence's last token has no slot until it is computed: more slots than that are drafts'."""
        table = sequence.table
        if table.num_tokens >= sequence.num_tokens:
            self._memory.truncate(table, sequence.num_tokens - 1)
            self._step.plan.truncated.append((sequence.row, table.num_blocks))

    def swap_out(self, moves: list[Move]) -> None:
        self._step.plan.swap_out += moves

    def resume(self, sequences: list[SequenceState], swapped_in: list[Move]) -> None:
        """A request is admitted, and these of its sequences hold blocks already: found ones, and such as come back."""
        self._step.plan.swap_in += swapped_in
        for sequence in sequences:
            self._introduce(sequence)
            self._step.plan.tables.append(TableEdit(sequence.row, sequence.table.entries))

    def end(self, sequence: SequenceState) -> None:
        """A sequence is over: its row is free."""
        if sequence.row == NO_ROW:
            return
        self._chosen.pop(sequence.row, None)
        if self._forked.pop(sequence.row, None) is None:
            self._step.plan.removed.append(sequence.row)
        self._free_rows.append(sequence.row)

    def fork_beam(self, parent: int, index: int) -> int:
        """A row with the tokens of row `parent`, before the next that is chosen for it, for sequence `index`."""
        row = self._take_row()
        self._forked[row] = ForkedRow(row, parent, index)
        return row

    def choose(self, row: int, token_id: int) -> None:
        """A beam's next token."""
        self._chosen[row] = token_id

    def forget_changes(self) -> None:
        """After an error: of what has happened since the last plan the next one tells only whose sequence is over."""
        self._step = ScheduledStep(Plan(removed=self._step.plan.removed))
        self._forked, self._chosen = {}, {}

    def repeat_changes(self, lost: Sequence[Plan]) -> None:
        """After steps that may not have run, whose requests are over: the next plan tells again whose sequence is over
        and who has lost its blocks. Both may be told twice."""
        self._step.plan.removed[:0] = [row for plan in lost for row in plan.removed]
        self._step.plan.released[:0] = [row for plan in lost for row in plan.released]

    # A step's own entries, in the half of planning that allocates.

    def begin(self) -> None:
        """From here on the plan gets its tokens: what has happened until now stands before them."""
        self._step.plan.forked[:0] = self._forked.values()
        self._step.plan.chosen += self._chosen.items()
        self._forked, self._chosen = {}, {}

    def finish(self) -> ScheduledStep:
        """The plan; the next one begins."""
        step, self._step = self._step, ScheduledStep(Plan())
        return step

    def place(self, sequence: SequenceState, num_new: int) -> None:
        """Fork the sequence if it is due, give its new tokens their slots, and tell the runner of both."""
        self._introduce(sequence)
        parent = sequence.parent
        if parent is None:
            change = self._memory.append(sequence.table, num_new)
            if change is not None:
                self._edit(sequence, change, NO_FORK, NO_ROW)
            return
        fork = self._memory.fork(parent.table, sequence.table, sequence.fork_at)
        sequence.follow(parent, self._block_size)
        change = self._memory.append(sequence.table, num_new) or NO_CHANGE
        self._edit(sequence, change, fork, parent.row if fork.num_shared else NO_ROW)

    def _edit(self, sequence: SequenceState, change: TableChange, fork: Fork, parent_row: int) -> None:
        plan = self._step.plan
        if change.copies:
            plan.copies += change.copies
            sequence.request.note(copied_bytes=self._memory.block_bytes * len(change.copies))
        if fork.appended:
            plan.tables.append(TableEdit(sequence.row, fork.appended))
        if change.appended or change.replaced or fork.num_shared:
            edit = TableEdit(sequence.row, change.appended, change.replaced, parent_row, fork.num_shared)
            plan.tables.append(edit)

    def compute(self, sequence: SequenceState, num_new: int) -> int:
        """The last `num_new` tokens that the sequence has slots for are computed. Returns the index in `plan.rows`."""
        step, plan, request = self._step, self._step.plan, sequence.request
        end = sequence.table.num_tokens
        start = end - num_new
        first, last = start // self._block_size, end // self._block_size
        if first != last and request.prefix_root is not None:
            step.filled.append((sequence, sequence.table, first, last))
        if self._has_windows:
            step.passed.append((sequence, sequence.table, end))
        if request.scores is not None and request.scores.plan(start, num_new):
            plan.scored.append(len(plan.rows))
            step.scored.append((request, start))
        plan.rows.append(sequence.row)
        plan.starts.append(start)
        plan.num_new.append(num_new)
        return len(plan.rows) - 1

    def draft(self, sequence: SequenceState, index: int, token_ids: list[int]) -> None:
        """The last tokens that entry `index` of `plan.rows` computes are guesses; the sequence is sampled next."""
        self._step.plan.drafts.append((index, token_ids))
        self._step.drafted[len(self._step.sampled)] = sequence.table, len(token_ids)

    def sample(self, sequence: SequenceState, logits_from: int) -> None:
        """The sequence gets its next token, from the logits behind entry `logits_from` of `plan.rows`."""
        plan = self._step.plan
        plan.sampled_rows.append(sequence.row)
        plan.logits_from.append(logits_from)
        self._step.sampled.append(sequence)
        sequence.num_tokens += 1

    def pool(self, sequence: SequenceState, index: int) -> None:
        """Entry `index` of `plan.rows` ends the prompt that the sequence pools, which counts as its one token."""
        self._step.plan.pooled.append(index)
        self._step.pooled.append(sequence)
        sequence.num_tokens += 1

    def _take_row(self) -> int:
        if self._free_rows:
            return self._free_rows.pop()
        self._num_rows += 1
        return self._num_rows - 1

    def _introduce(self, sequence: SequenceState) -> None:
        """Give the sequence a row and tell the runner its tokens, where it has none."""
        if sequence.row != NO_ROW:
            return
        sequence.row = self._take_row()
        request, parent, plan = sequence.request, sequence.parent, self._step.plan
        if parent is not None:
            plan.forked.append(ForkedRow(sequence.row, parent.row, sequence.index))
            return
        message = request.message
        plan.added.append(
            NewRow(
                sequence.row,
                sequence.index,
                request.prompt_token_ids,
                message.params,
                message.seed if message.params.own_seed is None else message.params.own_seed,
                sorted(request.stop_token_ids),
                0 if request.search is None else request.search.num_candidates,
                message.task,
                request.adapter,
                message.grammar,
                message.bad_words,
                message.pooling,
                message.reasoning,
                message.prediction,
            )
        )
