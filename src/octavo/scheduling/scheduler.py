"""The scheduler: forms a plan for every step from the requests that wait and run, and hands them what the step gave,
one iteration at a time (paper, sections 4.3 to 4.5)."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush

import msgspec

from octavo.config import PreemptionMode, PrefixCacheScope
from octavo.errors import RequestError
from octavo.execution.plan import NO_ADAPTER, Plan, StepOutput
from octavo.memory import BlockTable, KVManager, Ledger
from octavo.outputs import DraftUse, FinishReason
from octavo.sampling_params import SamplingParams
from octavo.scheduling import recall
from octavo.scheduling.admission import (
    Limits,
    check_pooled,
    check_prediction,
    check_section,
    check_wants,
    resolve_max_tokens,
)
from octavo.scheduling.allotment import Allotment
from octavo.scheduling.beams import advance_searches
from octavo.scheduling.choosing import Chooser
from octavo.scheduling.messages import EngineRequest, RequestUpdate, SequenceUpdate
from octavo.scheduling.pins import PINNED_ROOT, Pins
from octavo.scheduling.plan_writer import PlanWriter, ScheduledStep
from octavo.scheduling.policy import Policy, check_priority
from octavo.scheduling.preemption import Preemption
from octavo.scheduling.queues import Queues
from octavo.scheduling.request import Request
from octavo.scheduling.sequence import SequenceState


class Scheduler:
    """Plans steps and takes their results.

    A request's sequences are admitted, decode, are preempted and resume together. An admitted request is never dropped
    for want of memory: the last in rank (`Policy`), by default the latest arrivals, give up their blocks and wait in
    the place of their rank. Their blocks come back from the swap space, or are computed again but for what the prefix
    cache still has of them.
    """

    def __init__(
        self,
        limits: Limits,
        memory: KVManager,
        eos_token_ids: frozenset[int] = frozenset(),
        *,
        prefix_cache_scope: PrefixCacheScope = "tenant",
        preemption_mode: PreemptionMode = "auto",
        max_drafts: int = 0,
        foretells: bool = False,
        policy: Policy | None = None,
    ) -> None:
        """`max_drafts` is how many tokens the executor may guess for a sequence after a step, and where it `foretells`,
        it does so for those with a grammar; without a `policy` it is first come, first served."""
        self.limits = limits
        """`num_blocks` is what requests can have: the memory without the pins."""
        self.memory = memory
        self.queues = Queues()
        self.policy = policy or Policy()
        self._num_added = 0
        self.draft_use = DraftUse()
        """Of all requests since the start."""
        self._deadlines: list[tuple[float, int, Request]] = []
        """By when requests are to begin, the soonest first; those that have begun are still among them."""
        self._pins = Pins(memory)
        self._writer = PlanWriter(memory)
        self._preemption = Preemption(preemption_mode, memory.block_bytes)
        self._chooser = Chooser(
            limits,
            memory,
            self.queues,
            self._preemption,
            self._writer,
            may_draft=max_drafts > 0 or foretells,
            is_static=self.policy.is_static,
        )
        self._prefix_cache_scope: PrefixCacheScope = prefix_cache_scope
        self._eos_token_ids = eos_token_ids
        self._max_drafts = max_drafts
        self._foretells = foretells

    @property
    def has_unfinished(self) -> bool:
        return bool(self.queues)

    @property
    def num_waiting(self) -> int:
        return self.queues.num_waiting

    @property
    def num_running(self) -> int:
        return self.queues.num_running

    @property
    def num_preemptions(self) -> int:
        return self.memory.totals.num_preemptions

    @property
    def running(self) -> list[Request]:
        """The requests that hold blocks, in order of their ranks."""
        return self.queues.running

    def ledger(self) -> Ledger:
        return self.memory.ledger()

    def add(self, message: EngineRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: it is malformed, its id is in use, or it could never run here. Nothing has been allocated.
        """
        self._add(message, recall.prefix_root(message, self._prefix_cache_scope))

    def check(self, message: EngineRequest) -> int:
        """Refuse what `add` would. Returns the tokens that it may generate at most.

        Raises:
            RequestError: as `add`.
        """
        if self.queues.find(message.request_id) is not None:
            raise RequestError(f"request id {message.request_id!r} is already in use")
        check_wants(message, self.limits.capabilities)
        if message.reasoning is not None:
            check_section(message.reasoning, self.limits)
        check_prediction(message.prediction, self.limits)
        check_priority(message.priority, self.policy.name)
        if message.task != "generate":
            check_pooled(message, self.limits)
            return 1
        return resolve_max_tokens(message.prompt_token_ids, message.params, self.limits)

    def _add(self, message: EngineRequest, prefix_root: bytes | None) -> None:
        max_tokens = self.check(message)
        if message.params.max_tokens not in (None, max_tokens):  # any number is taken, and plans hold 64 bits
            params = msgspec.structs.replace(message.params, max_tokens=max_tokens)
            message = msgspec.structs.replace(message, params=params)
        num_at_once = self.limits.num_at_once(message.params)
        request = Request.create(message, max_tokens, self._eos_token_ids, num_at_once, self.memory.new_table)
        rank = self.policy.rank(message.arrival_s, len(message.prompt_token_ids), message.priority)
        request.rank = (rank, self._num_added)
        self._num_added += 1
        if message.start_by_s is not None:
            heappush(self._deadlines, (message.start_by_s, self._num_added, request))
        request.adapter = self.limits.capabilities.adapter_number(message.adapter)
        request.prefix_root = prefix_root
        may_be_forced = self._foretells and (message.grammar is not None or message.reasoning is not None)
        may_be_drafted = (self._max_drafts > 0 or may_be_forced) and request.search is None
        request.is_speculated = may_be_drafted and not request.is_pooled
        if request.is_pooled:
            self._follow_pooling(request)
        if request.adapter == NO_ADAPTER:  # pins are computed without one
            request.pinned_digests = self._pins.digests_of(message.prompt_token_ids)
        self.queues.add(request)

    def _follow_pooling(self, request: Request) -> None:
        """Let the prompt be computed as its pooling needs it: all at once where tokens see later ones, so that no other
        prompt has such blocks; and from the first token on where that is not the last one's alone."""
        pooling = self.limits.capabilities.pooling
        if not pooling.is_causal:
            request.is_computed_whole, request.prefix_root = True, None
        if not pooling.is_causal or (request.message.task != "score" and pooling.kind != "last"):
            request.reads_cache = False

    def add_pin(self, token_ids: list[int]) -> None:
        """Queue the computation of a prefix that is to be pinned, with nothing else in the engine.

        Raises:
            RequestError: as for `add`.
        """
        params = SamplingParams(temperature=0, max_tokens=1)
        self._add(EngineRequest("pin", token_ids, params, time.monotonic()), PINNED_ROOT)

    def hold_pin(self, token_ids: list[int]) -> None:
        """Keep the computed blocks of a prefix for all requests and for good; the others have that many less."""
        self._pins.hold(token_ids)
        self.limits = replace(self.limits, num_blocks=self.memory.num_blocks - self.memory.num_pinned_blocks)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """End a request, or one of its sequences, now. Its blocks are free when this returns. False where there is no
        such thing (any more). A beam search ends whole or not at all."""
        request = self.queues.find(request_id)
        if request is None or (request.search is not None and index is not None):
            return False
        later = request.later
        request.later = [] if index is None else [each for each in later if each != index]
        ended = [s for s in request.sequences if index is None or s.index == index]
        for sequence in ended:
            self._finish(sequence, "abort")
        return bool(ended) or len(request.later) < len(later)

    def expire(self, now_s: float) -> list[EngineRequest]:
        """Drop the requests that were to begin by now and have not. Nothing has been allocated for them.

        Args:
            now_s: of `time.monotonic()`.
        """
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            _, _, request = heappop(self._deadlines)
            if request.first_scheduled_s is None and self.abort(request.request_id):
                expired.append(request.message)
        return expired

    def fail_steps(self, steps: Sequence[ScheduledStep], why: str) -> list[RequestUpdate]:
        """Fail the requests that have a part in steps that were planned and of which no output comes. What the plans
        say of others is said again."""
        touched = {row for step in steps for row in step.plan.touched_rows}
        swapped = {row for step in steps if step.plan.swap_out for row in step.plan.released}
        updates = []
        for request in [*self.queues.running, *self.queues.waiting]:
            rows = {sequence.row for sequence in request.sequences}
            is_swapped = any(sequence.saved is not None for sequence in request.sequences)
            if rows & touched or (is_swapped and rows & swapped):
                updates.append(self._fail(request, why))
        self._writer.repeat_changes([step.plan for step in steps])
        return updates

    def fail_begun(self, why: str) -> list[RequestUpdate]:
        """Fail every request that has begun and forget all of the memory but the pins, after an error in the books
        themselves. Requests that have held nothing yet go on waiting."""
        begun = [*self.queues.running, *(request for request in self.queues.waiting if request.has_begun)]
        updates = [self._fail(request, why) for request in begun]
        self.memory.restart()
        self._writer.forget_changes()
        return updates

    def reset(self) -> None:
        """Drop every request and all that is known of the memory but the pins."""
        for request in [*self.queues.running, *self.queues.waiting]:
            self.abort(request.request_id)
        self._deadlines.clear()
        self.memory.restart()
        self._writer.forget_changes()

    def _fail(self, request: Request, why: str) -> RequestUpdate:
        """End a request that has failed."""
        update = RequestUpdate(
            request.request_id, [], first_scheduled_s=request.first_scheduled_s, memory=request.memory_use, error=why
        )
        request.later = []
        for sequence in list(request.sequences):
            self._finish(sequence, "error")
        return update

    def _fail_rows(self, step: ScheduledStep, faults: list[tuple[int, str]]) -> list[RequestUpdate]:
        """Fail the requests of rows that have failed in a step, each once."""
        if not faults:
            return []
        plan = step.plan
        of_row = {plan.rows[index]: own.request for index, own in zip(plan.pooled, step.pooled, strict=True)}
        of_row |= {plan.rows[index]: request for index, (request, _) in zip(plan.scored, step.scored, strict=True)}
        of_row |= {row: own.request for row, own in zip(plan.sampled_rows, step.sampled, strict=True)}
        failed = {of_row[row]: why for row, why in reversed(faults)}
        return [self._fail(request, why) for request, why in failed.items() if request.sequences]

    def schedule(self) -> ScheduledStep:
        """Plan the next step: first decide who runs, by counting blocks and preempting; only then allocate. Counts
        advance here."""
        allotments = self._chooser.choose()
        self._writer.begin()
        for allotment in allotments:
            self._allocate(allotment)
        return self._writer.finish()

    def take_changes(self) -> Plan:
        """What has happened since the last plan, for whoever plans the next step without being told who runs in it."""
        return self._writer.finish().plan

    def _allocate(self, allotment: Allotment) -> None:
        """Give a request's new tokens their slots and have them computed. Nothing is freed from here on."""
        writer, computed, drafts = self._writer, {}, allotment.request.drafts
        for sequence, num_new in allotment.num_new:
            source = sequence if num_new else sequence.parent
            writer.place(sequence, num_new)
            if num_new:
                computed[sequence] = writer.compute(sequence, num_new)
                if num_new > 1 and sequence in drafts:
                    writer.draft(sequence, computed[sequence], drafts[sequence][: num_new - 1])
            if allotment.samples and source is not None:
                give = writer.pool if allotment.request.is_pooled else writer.sample
                give(sequence, computed[source])
        allotment.request.is_decoding = allotment.samples
        drafts.clear()

    def update(self, step: ScheduledStep, output: StepOutput) -> list[RequestUpdate]:
        """Give the sequences the tokens of a step that has run; finish those that end, and free their blocks.

        The order matters. Tokens are taken and drafts truncated before blocks are made findable, as these are named by
        their tokens. Memory is settled before sequences end or beams fork, as both need it as the step has left it.
        Requests that have failed end before all of it: nothing of them is made findable.
        """
        failed = self._fail_rows(step, output.faults)
        for (request, start), scores in zip(step.scored, output.prompt_logprobs, strict=True):
            if request.scores is not None:
                request.scores.take(start, scores)
        self._preemption.learn(step.plan, output)
        updates, ended = self._take_tokens(step, output)
        pooled = self._take_pooled(step, output)
        updates += [update for _, update in pooled]
        ended += [(sequence, "stop") for sequence, _ in pooled]
        self._settle_memory(step)
        for sequence, reason in ended:
            self._finish(sequence, reason)
        return failed + updates + advance_searches(step, output, self._writer, partial(self._finish, reason="abort"))

    def _take_tokens(
        self, step: ScheduledStep, output: StepOutput
    ) -> tuple[list[RequestUpdate], list[tuple[SequenceState, FinishReason]]]:
        """Give the sequences their tokens and the guesses at those that follow. Returns what to tell of them, and the
        sequences that end with these tokens."""
        updates: list[RequestUpdate] = []
        ended: list[tuple[SequenceState, FinishReason]] = []
        last: Request | None = None
        logprobs, drafts, drafted = output.logprobs, output.drafts, step.drafted
        for i, (sequence, token_ids) in enumerate(zip(step.sampled, output.token_ids, strict=True)):
            if sequence.finish_reason is not None or not token_ids:
                continue  # over in the meantime, or a beam: its candidates come apart
            update = SequenceUpdate(sequence.index, token_ids)
            if logprobs:
                update.logprobs = logprobs[i]
            if sequence.request is not last:
                last = sequence.request
                updates.append(last.begin_update())
            updates[-1].sequences.append(update)
            if sequence.take_tokens(update) and update.finish_reason is not None:
                ended.append((sequence, update.finish_reason))
            if drafted and i in drafted:
                self._accept_drafts(sequence, *drafted[i], len(update.token_ids) - 1)
                updates[-1].drafts = sequence.request.draft_use
            if drafts:
                sequence.keep_drafts(drafts[i])
        return updates, ended

    def _take_pooled(self, step: ScheduledStep, output: StepOutput) -> list[tuple[SequenceState, RequestUpdate]]:
        """What to tell of the prompts that were pooled: with that they are over."""
        told = []
        for sequence, pooled in zip(step.pooled, output.pooled, strict=True):
            if sequence.finish_reason is None:
                update = sequence.request.begin_update()
                update.sequences.append(SequenceUpdate(sequence.index, [], "stop", pooled=pooled))
                told.append((sequence, update))
        return told

    def _accept_drafts(self, sequence: SequenceState, table: BlockTable, num_drafted: int, num_accepted: int) -> None:
        """So many of a sequence's drafts are its tokens; the slots of the others are taken back.

        Args:
            table: the one that has slots for them; the sequence has another where it was preempted in the meantime.
        """
        use = DraftUse(num_drafted, num_accepted)
        sequence.request.draft_use += use
        self.draft_use += use
        sequence.num_tokens += num_accepted
        if sequence.table is not table:
            sequence.request.is_decoding = False
        else:
            self._writer.take_back_drafts(sequence)

    def _settle_memory(self, step: ScheduledStep) -> None:
        """Make the blocks that a step has filled findable, and let go of those that no later token sees and no other
        sequence that is to fork needs."""
        for sequence, table, first, last in step.filled:
            self.memory.index_blocks(table, first, last, partial(sequence.digest, block_size=self.limits.block_size))
        request, limits = None, {}
        for sequence, table, end in step.passed:
            if sequence.request is not request:
                request = sequence.request
                limits = request.fork_limits()
            self.memory.release_passed(table, min(end, table.num_tokens, limits.get(sequence, end)))

    def _finish(self, sequence: SequenceState, reason: FinishReason) -> None:
        """End a sequence: its blocks go back to the memory, its row to the runner, and with the last one its request is
        over, or waits with the samples that are still to begin."""
        request, num_places = sequence.request, sequence.request.num_places
        sequence.finish_reason = reason
        self.memory.free(sequence.table)
        if sequence.saved is not None:
            self.memory.drop_saved(sequence.saved)
        self._writer.end(sequence)
        request.remove(sequence, self.memory.can_fork)
        self.queues.shrink(request, num_places)
        if not request.sequences and request.later:
            request.begin_later(self.limits.num_at_once(request.message.params), self.memory.new_table)
            self.queues.add(request)
