"""The scheduler: who runs in each step, in which blocks. First come, first served, one iteration at a time (paper,
sections 4.3 to 4.5)."""

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import partial

from octavo.config import PreemptionMode, PrefixCacheScope
from octavo.errors import RequestError
from octavo.execution.plan import ForkedRow, NewRow, Plan, StepOutput, TableEdit
from octavo.memory import BlockTable, Ledger, PagedManager, TableChange, chain_digests
from octavo.outputs import Candidates, FinishReason
from octavo.sampling_params import SamplingParams
from octavo.scheduling import recall
from octavo.scheduling.admission import Limits, resolve_max_tokens
from octavo.scheduling.beam_search import BeamSearch
from octavo.scheduling.messages import EngineRequest, RequestUpdate, SequenceUpdate
from octavo.scheduling.preemption import Preemption
from octavo.scheduling.recall import Recall
from octavo.scheduling.request import Request, RequestState, SequenceState, TokenMask
from octavo.scheduling.rows import NO_ROW, Rows
from octavo.scheduling.shares import Share, num_blocks_needed, share_of

logger = logging.getLogger(__name__)

NO_CHANGE = TableChange([], [], [])
HEADROOM = 2
"""One block for so many running sequences stays free when a request is admitted: they grow, and would soon preempt it
again. With a pool of a quarter of the demand this halves the tokens recomputed and costs 1 to 4 % more steps."""


@dataclass(slots=True)
class Budget:
    """What is left of a step while it is decided who runs."""

    chunk_tokens: int
    """Tokens beyond the one that is set aside for each running sequence."""
    free_blocks: int
    """Free blocks not yet counted for anyone in this step."""
    promised_blocks: int = 0
    """Blocks that running requests need to finish what they have begun to compute."""


@dataclass(slots=True)
class ScheduledStep:
    """A plan and the scheduler's own note of who waits for its results."""

    plan: Plan
    sampled: list[SequenceState] = field(default_factory=list)
    """In the order of `plan.sampled_rows`."""
    scored: list[tuple[Request, int]] = field(default_factory=list)
    """In the order of `plan.scored`: the request and the first position."""
    filled: list[tuple[SequenceState, BlockTable, int, int]] = field(default_factory=list)
    """Blocks that are full once the step has run: a sequence's, by first logical block and the one after the last. The
    table is empty by then if the sequence has lost its blocks."""
    passed: list[tuple[SequenceState, BlockTable, int]] = field(default_factory=list)
    """Sequences of models with windows, and how many tokens they have once the step has run: what no later token sees
    is let go then."""


class Scheduler:
    """Forms a plan for every step from the requests that wait and run.

    A request's sequences are admitted, decode, are preempted and resume together. An admitted request is never dropped
    for want of memory: the latest arrivals give up their blocks and wait at the head of the queue. Their blocks come
    back from the swap space, or are computed again but for what the prefix cache still has of them.
    """

    def __init__(
        self,
        limits: Limits,
        eos_token_ids: frozenset[int] = frozenset(),
        *,
        prefix_cache_scope: PrefixCacheScope = "tenant",
        preemption_mode: PreemptionMode = "auto",
        num_swap_blocks: int = 0,
        block_bytes: int = 0,
    ) -> None:
        self.limits = limits
        """`num_blocks` is what requests can have: the pool without the pins."""
        self.memory = PagedManager(
            limits.num_blocks,
            limits.block_size,
            limits.demand.layer_groups,
            num_swap_blocks=num_swap_blocks,
            block_bytes=block_bytes,
        )
        self._preemption = Preemption(preemption_mode, block_bytes)
        self._prefix_cache_scope: PrefixCacheScope = prefix_cache_scope
        self._eos_token_ids = eos_token_ids
        self._waiting: OrderedDict[str, Request] = OrderedDict()
        self._running: dict[str, Request] = {}
        self._num_running_sequences = 0
        self._rows = Rows()
        self._pinned_digests: set[bytes] = set()
        """Of all blocks of the pinned prefixes."""

    @property
    def has_unfinished(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_preemptions(self) -> int:
        return self.memory.totals.num_preemptions

    @property
    def running(self) -> list[Request]:
        """The requests that hold blocks, in order of arrival."""
        return list(self._running.values())

    def ledger(self) -> Ledger:
        return self.memory.ledger()

    def add(self, message: EngineRequest, token_mask: TokenMask | None = None) -> None:
        """Queue a request.

        Raises:
            RequestError: it is malformed, its id is in use, or it could never run here. Nothing has been allocated.
        """
        if message.request_id in self._waiting or message.request_id in self._running:
            raise RequestError(f"request id {message.request_id!r} is already in use")
        max_tokens = resolve_max_tokens(message.prompt_token_ids, message.params, self.limits)
        request = Request.create(message, max_tokens, self._eos_token_ids, token_mask, self.memory.new_table)
        request.prefix_root = recall.prefix_root(message, self._prefix_cache_scope)
        request.pinned_digests = recall.pinned_digests(
            message.prompt_token_ids, self.limits.block_size, self._pinned_digests
        )
        self._waiting[message.request_id] = request

    def add_pin(self, token_ids: list[int]) -> None:
        """Queue the computation of a prefix that is to be pinned, with nothing else in the engine.

        Raises:
            RequestError: as for `add`.
        """
        request_id = "pin"
        self.add(EngineRequest(request_id, token_ids, SamplingParams(temperature=0, max_tokens=1), time.monotonic()))
        self._waiting[request_id].prefix_root = recall.PINNED_ROOT

    def hold_pin(self, token_ids: list[int]) -> None:
        """Keep the computed blocks of a prefix for all requests and for good; the others have that many less.

        Prompts may end in its last block, or part from it there, as text behind it changes its last token. What they
        see is kept, too: in window groups that begins a block earlier.
        """
        digests = chain_digests(recall.PINNED_ROOT, token_ids, self.limits.block_size)
        self._pinned_digests.update(digests)
        for limit in (len(digests), len(digests) - 1):
            self.memory.pin(self.memory.find_prefix(limit, lambda logical: digests[logical : logical + 1]))
        num_left = self.memory.pool.num_blocks - self.memory.num_pinned_blocks
        self.limits = replace(self.limits, num_blocks=num_left)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """End a request, or one of its sequences, now. Its blocks are free when this returns. False where there is no
        such thing (any more). A beam search ends whole or not at all."""
        request = self._running.get(request_id) or self._waiting.get(request_id)
        if request is None or (request.search is not None and index is not None):
            return False
        ended = [s for s in request.sequences if index is None or s.index == index]
        for sequence in ended:
            self._finish(sequence, "abort")
        return bool(ended)

    def reset(self) -> None:
        """Drop every request and all that is known of the memory but the pins, after an error in the middle of a
        step."""
        for request_id in [*self._running, *self._waiting]:
            self.abort(request_id)
        self.memory = self.memory.restarted()
        self._rows.forget_changes()

    def schedule(self) -> ScheduledStep:
        """Plan the next step: first decide who runs, by counting blocks and preempting; only then allocate. Counts
        advance here."""
        budget = Budget(self.limits.max_num_batched_tokens - self._num_running_sequences, self.memory.num_free_blocks)
        num_preemptions = self.num_preemptions
        shares = self._choose_running(budget)
        if self.num_preemptions == num_preemptions:
            self._choose_waiting(budget, shares)
        return self._allocate(shares)

    def update(self, step: ScheduledStep, output: StepOutput) -> list[RequestUpdate]:
        """Give the sequences the tokens of a step that has run; finish those that end, and free their blocks."""
        for (request, start), scores in zip(step.scored, output.prompt_logprobs, strict=True):
            request.take_scores(start, scores)
        self._preemption.learn(step.plan, output)
        self._index_blocks(step)
        self._release_passed(step)
        updates: list[RequestUpdate] = []
        last: Request | None = None
        logprobs = output.logprobs
        for i, (sequence, token_ids) in enumerate(zip(step.sampled, output.token_ids, strict=True)):
            if sequence.finish_reason is not None or not token_ids:
                continue
            update = SequenceUpdate(sequence.index, token_ids, logprobs=logprobs[i] if logprobs else None)
            if sequence.request is not last:
                last = sequence.request
                updates.append(last.begin_update())
            updates[-1].sequences.append(update)
            self._take_tokens(sequence, update)
        return updates + self._advance_searches(step, output)

    def _choose_running(self, budget: Budget) -> list[Share]:
        """The running requests' shares, in order of arrival; where blocks run out the latest arrival is preempted."""
        shares: list[Share] = []
        for request in list(self._running.values()):
            if request.state is not RequestState.RUNNING:
                break
            if request.waits_for_results:
                continue
            share = share_of(request, budget.chunk_tokens + request.num_places, self.memory)
            needed = num_blocks_needed(share, self.memory)
            while needed > budget.free_blocks:
                victim = next(reversed(self._running.values()))
                budget.free_blocks += self._preempt(victim, needed_by=request)
                if victim is request:
                    return shares
            self._charge(budget, share, needed)
            shares.append(share)
        return shares

    def _choose_waiting(self, budget: Budget, shares: list[Share]) -> None:
        """Admit from the head of the queue what fits whole: its sequences, and the blocks until they can sample."""
        while self._waiting:
            request = next(iter(self._waiting.values()))
            num_sequences = request.num_places
            if self._num_running_sequences + num_sequences > self.limits.max_num_seqs:
                return
            if num_sequences > budget.chunk_tokens or request.waits_for_results:
                return
            spare_blocks = budget.free_blocks - budget.promised_blocks - self._num_running_sequences // HEADROOM
            found = recall.find(request, self.memory)
            if found.num_blocks_missing(request, self.limits.demand) > spare_blocks:
                return
            self._admit(request, found)
            budget.free_blocks -= found.num_blocks_taken
            share = share_of(request, budget.chunk_tokens, self.memory)
            budget.chunk_tokens -= num_sequences
            self._charge(budget, share, num_blocks_needed(share, self.memory))
            shares.append(share)

    def _admit(self, request: Request, found: Recall) -> None:
        """Let a request run, with the blocks that were found for it: held from now on, so that nothing evicts them."""
        self._rows.plan.swap_in += recall.take(found, request, self.memory)
        for sequence in (*found.hits, *found.saved):
            if sequence.row == NO_ROW:
                self._introduce(self._rows.plan, sequence)
            self._rows.plan.tables.append(TableEdit(sequence.row, sequence.table.entries))
        del self._waiting[request.request_id]
        self._running[request.request_id] = request
        self._num_running_sequences += request.num_places
        request.state = RequestState.RUNNING
        if request.first_scheduled_s is None:
            request.first_scheduled_s = time.monotonic()

    def _preempt(self, request: Request, needed_by: Request) -> int:
        """Take a request's blocks away; it resumes before any new request. Returns the blocks that are free now."""
        free_before = self.memory.num_free_blocks
        told = self._preemption.take_blocks(request, self.memory, self._rows.plan)
        freed = self.memory.num_free_blocks - free_before
        del self._running[request.request_id]
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)
        self._num_running_sequences -= request.num_places
        request.state = RequestState.WAITING
        logger.info(
            "preempted %s, the latest arrival, for %s: %d blocks freed, %s",
            request.request_id,
            needed_by.request_id,
            freed,
            told,
        )
        return freed

    def _charge(self, budget: Budget, share: Share, num_blocks: int) -> None:
        request = share.request
        budget.free_blocks -= num_blocks
        if not request.is_decoding:
            num_tokens = sum(num_new for _, num_new in share.num_new)
            budget.chunk_tokens -= max(0, num_tokens - request.num_places)
            budget.promised_blocks += max(0, request.num_blocks_missing(self.limits.demand) - num_blocks)

    def _allocate(self, shares: list[Share]) -> ScheduledStep:
        """Write the plan: give every new token its slot and advance the counts. Nothing is freed from here on."""
        plan = self._rows.begin_plan()
        step = ScheduledStep(plan)
        for request, num_new, samples in shares:
            logits_of: dict[SequenceState, int] = {}
            for sequence, count in num_new:
                source = sequence if count else sequence.parent
                self._place(plan, sequence, count)
                if count:
                    logits_of[sequence] = len(plan.rows)
                    self._compute(step, sequence, count)
                if samples and source is not None:
                    self._sample(step, sequence, logits_of[source])
            request.is_decoding = samples
        return step

    def _place(self, plan: Plan, sequence: SequenceState, num_new: int) -> None:
        """Fork the sequence if it is due, give its new tokens their slots, and tell the runner of both."""
        parent, num_shared = sequence.parent, 0
        if sequence.row == NO_ROW:
            self._introduce(plan, sequence)
        if parent is not None:
            num_shared = self.memory.fork(parent.table, sequence.table, sequence.fork_at)
            sequence.parent = None
            if len(sequence.digests) < num_shared:
                sequence.digests = parent.digests[: sequence.fork_at // self.limits.block_size]
        change = self.memory.append(sequence.table, num_new)
        if change is None and parent is None:
            return
        copies, replaced, appended = change or NO_CHANGE
        if copies:
            plan.copies += copies
            sequence.request.note(copied_bytes=self.memory.block_bytes * len(copies))
        plan.tables.append(TableEdit(sequence.row, appended, replaced, parent.row if parent else NO_ROW, num_shared))

    def _introduce(self, plan: Plan, sequence: SequenceState) -> None:
        """Give the sequence a row and tell the runner its tokens."""
        sequence.row = self._rows.take()
        request, parent = sequence.request, sequence.parent
        if parent is not None:
            plan.forked.append(ForkedRow(sequence.row, parent.row, sequence.index))
            return
        message = request.message
        seed = message.seed if message.params.seed is None else message.params.seed
        plan.added.append(
            NewRow(
                sequence.row,
                sequence.index,
                request.prompt_token_ids,
                message.params,
                seed,
                sorted(request.stop_token_ids),
                0 if request.search is None else request.search.num_candidates,
            )
        )

    def _compute(self, step: ScheduledStep, sequence: SequenceState, num_new: int) -> None:
        plan, request = step.plan, sequence.request
        end = sequence.table.num_tokens
        start = end - num_new
        first, last = start // self.limits.block_size, end // self.limits.block_size
        if first != last and request.prefix_root is not None:
            step.filled.append((sequence, sequence.table, first, last))
        if self.memory.has_windows:
            step.passed.append((sequence, sequence.table, end))
        if request.plan_scores(start, num_new):
            plan.scored.append(len(plan.rows))
            step.scored.append((request, start))
        plan.rows.append(sequence.row)
        plan.starts.append(start)
        plan.num_new.append(num_new)

    def _sample(self, step: ScheduledStep, sequence: SequenceState, logits_from: int) -> None:
        plan, mask = step.plan, sequence.request.token_mask
        if mask is not None:
            plan.masks.append((len(plan.sampled_rows), mask(sequence.output_token_ids)))
        plan.sampled_rows.append(sequence.row)
        plan.logits_from.append(logits_from)
        step.sampled.append(sequence)
        sequence.num_tokens += 1

    def _index_blocks(self, step: ScheduledStep) -> None:
        """Make the blocks that a step has filled findable."""
        for sequence, table, first, last in step.filled:
            self.memory.index_blocks(table, first, last, partial(sequence.digest, block_size=self.limits.block_size))

    def _release_passed(self, step: ScheduledStep) -> None:
        """Let go of the blocks that no later token sees, and no other sequence that is to fork needs."""
        for sequence, table, end in step.passed:
            limit = sequence.request.fork_limit(sequence)
            self.memory.release_passed(table, end if limit is None else min(end, limit))

    def _take_tokens(self, sequence: SequenceState, update: SequenceUpdate) -> None:
        """Add a step's tokens to a sequence; it ends at the first that stops it, or at its longest."""
        request, outputs = sequence.request, sequence.output_token_ids
        params = request.message.params
        for count, token in enumerate(update.token_ids, 1):
            outputs.append(token)
            if token in request.stop_token_ids and len(outputs) > params.min_tokens:
                update.finish_reason = "stop"
                update.stop_token_id = token if token in (params.stop_token_ids or ()) else None
            elif len(request.prompt_token_ids) + len(outputs) >= request.max_len:
                update.finish_reason = "length"
            else:
                continue
            update.token_ids = update.token_ids[:count]
            self._finish(sequence, update.finish_reason)
            return

    def _advance_searches(self, step: ScheduledStep, output: StepOutput) -> list[RequestUpdate]:
        """Give the beam searches the candidates of their beams; those that are over are reported."""
        candidates: dict[BeamSearch, dict[SequenceState, Candidates]] = {}
        for index, own in output.candidates:
            beam = step.sampled[index]
            search = beam.request.search
            if search is not None and beam.finish_reason is None:
                candidates.setdefault(search, {})[beam] = own
        updates: list[RequestUpdate] = []
        for search, of_beams in candidates.items():
            request = next(iter(of_beams)).request
            self._advance_search(search, of_beams)
            if not request.sequences:
                updates.append(request.report_hypotheses(search))
        return updates

    def _advance_search(self, search: BeamSearch, candidates: dict[SequenceState, Candidates]) -> None:
        """Let a search choose among its beams' candidates. The blocks of beams that are dropped are free at once; one
        that is kept several times goes on in its own sequence and in forks of it."""
        beams = sorted(candidates, key=lambda beam: beam.rank)
        kept = search.advance([candidates[beam] for beam in beams])
        parents = {extension.parent for extension in kept}
        for place, beam in enumerate(beams):
            if place not in parents:
                self._finish(beam, "abort")
        for rank, extension in enumerate(kept):
            beam = beams[extension.parent]
            if extension.parent in parents:
                parents.remove(extension.parent)
            else:
                beam = beam.request.fork_beam(beam, self._rows)
            beam.rank, beam.output_token_ids = rank, search.beams[rank].token_ids
            self._rows.choose(beam.row, extension.token_id)

    def _finish(self, sequence: SequenceState, reason: FinishReason) -> None:
        """End a sequence: its blocks go back to the pool, its row to the runner, and with the last one its request is
        over."""
        request, num_places = sequence.request, sequence.request.num_places
        sequence.finish_reason = reason
        self.memory.free(sequence.table)
        if sequence.saved is not None:
            self.memory.drop_saved(sequence.saved)
        if sequence.row != NO_ROW:
            self._rows.give_back(sequence.row)
        request.remove(sequence, self.memory.can_fork)
        if request.state is RequestState.RUNNING:
            self._num_running_sequences -= num_places - request.num_places
        if not request.sequences:
            queue = self._running if request.state is RequestState.RUNNING else self._waiting
            del queue[request.request_id]
            request.state = RequestState.FINISHED
