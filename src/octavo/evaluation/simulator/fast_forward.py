"""Steps that differ only in counts, made at once: where nothing happens but that each sequence gets its next token."""

from collections.abc import Sequence
from functools import partial

from octavo.engine.engine import Engine
from octavo.execution.simulated import SimulatedExecutor
from octavo.memory import KVManager
from octavo.scheduling.messages import RequestUpdate, SequenceUpdate
from octavo.scheduling.sequence import SequenceState


class FastForward:
    """Makes the steps of an engine at once that lie before the next event: before a request comes, a sequence ends,
    somebody is admitted, or blocks run short. The scheduler would plan all of them alike, so it is not asked. It plans
    every step that has an event, and every one of sequences whose next token is not all that happens to them.

    What such steps leave behind is what they leave one by one: the tokens, the slots, what the prefix cache finds, the
    executor's seconds. Only the numbers of blocks may be others.
    """

    def __init__(self, executor: SimulatedExecutor) -> None:
        self._executor = executor
        self._seen: tuple[float, int, int] | None = None
        """Before the last step, if it was one of these: when the next request came, how many ran and waited."""

    def steps(self, engine: Engine, until_s: float) -> list[RequestUpdate]:
        """Make the steps that begin before a second, up to the next event. To be called before each step of the engine.

        Args:
            until_s: when the next request comes.

        Returns:
            What the steps gave; nothing where the next one is the scheduler's to plan.
        """
        scheduler, memory = engine.scheduler, engine.scheduler.memory
        sequences = [sequence for request in scheduler.running for sequence in request.sequences]
        is_plain = self._is_plain(engine, sequences)
        before = self._seen
        self._seen = (until_s, scheduler.num_running, scheduler.num_waiting) if is_plain else None
        if not is_plain or (scheduler.num_waiting and before != self._seen):
            return []  # or nothing has told yet that nobody who waits can be admitted
        # The last token of a sequence is given by a step of the engine.
        most = min(sequence.request.max_len - sequence.num_known_tokens for sequence in sequences) - 1
        while most and _num_blocks_needed(sequences, most, memory) > memory.num_free_blocks:
            most //= 2
        if not most:
            return []
        plan = scheduler.take_changes()
        plan.rows = plan.sampled_rows = [sequence.row for sequence in sequences]
        plan.starts = [sequence.table.num_tokens for sequence in sequences]
        plan.num_new, plan.logits_from = [1] * len(sequences), list(range(len(sequences)))
        return _take_tokens(engine, sequences, self._executor.repeat(plan, most, until_s))

    def _is_plain(self, engine: Engine, sequences: list[SequenceState]) -> bool:
        """Whether all that happens to sequences is that each gets a token, in the step in flight and in those to come,
        until they reach their lengths."""
        in_flight, memory = engine.in_flight, engine.scheduler.memory
        return (
            len(sequences) > 0
            and len(in_flight) == self._executor.depth - 1
            and all(step.plan.decodes and step.sampled == sequences for step in in_flight)
            and not memory.demand.has_windows
            and all(_only_decodes(sequence, memory.block_size) for sequence in sequences)
        )


def _only_decodes(sequence: SequenceState, block_size: int) -> bool:
    request, table = sequence.request, sequence.table
    return (
        request.is_decoding
        and len(sequence.output_token_ids) > 0
        and not (request.search or request.is_speculated or request.stop_token_ids)
        and table.num_writable == table.num_blocks * block_size  # or a block may have to be copied first
    )


def _num_blocks_needed(sequences: Sequence[SequenceState], num_steps: int, memory: KVManager) -> int:
    """Blocks that so many steps allocate."""
    tables = [sequence.table for sequence in sequences]
    return sum(memory.num_blocks_to_append(table, table.num_tokens, num_steps) for table in tables)


def _take_tokens(
    engine: Engine, sequences: Sequence[SequenceState], collected: Sequence[list[int]]
) -> list[RequestUpdate]:
    """Let the sequences have what steps gave that were not planned: the engine's books are as if they had been.

    Args:
        collected: a token a step, for each sequence.
    """
    memory, size, in_flight = engine.scheduler.memory, engine.scheduler.memory.block_size, engine.in_flight
    updates: list[RequestUpdate] = []
    num_steps = len(collected[0])
    engine.num_steps += num_steps
    for sequence, token_ids in zip(sequences, collected, strict=True):
        if not updates or updates[-1].request_id != sequence.request.request_id:
            updates.append(sequence.request.begin_update())
        updates[-1].sequences.append(SequenceUpdate(sequence.index, token_ids))
        sequence.num_tokens += num_steps
        sequence.output_token_ids += token_ids
        table = sequence.table
        memory.append(table, num_steps)
        end = table.num_tokens - len(in_flight)
        if sequence.request.prefix_root is not None:
            first, last = (end - num_steps) // size, end // size
            memory.index_blocks(table, first, last, partial(sequence.digest, block_size=size))
    for step in in_flight:  # it is the last of them now
        step.filled = [
            (sequence, sequence.table, sequence.table.num_blocks - 1, sequence.table.num_blocks)
            for sequence in sequences
            if sequence.request.prefix_root is not None and sequence.table.num_tokens % size == 0
        ]
    return updates
