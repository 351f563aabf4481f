"""Who runs in a step: a token budget shared out in order of rank, preemption where blocks run short, admission where
they do not (paper, sections 4.3 and 4.5)."""

import logging
import time
from dataclasses import dataclass

from octavo.memory import KVManager
from octavo.scheduling import recall
from octavo.scheduling.admission import Limits
from octavo.scheduling.allotment import Allotment, allot, num_blocks_needed, with_drafts
from octavo.scheduling.plan_writer import PlanWriter
from octavo.scheduling.preemption import Preemption
from octavo.scheduling.queues import Queues
from octavo.scheduling.recall import Recall
from octavo.scheduling.request import Request

logger = logging.getLogger(__name__)

HEADROOM = 2
"""One block, whatever the number of layer groups, for so many running sequences stays free when a request is admitted:
they grow, and would soon preempt it again. With a pool of a quarter of the demand this halves the tokens recomputed and
costs 1 to 4 % more steps."""


@dataclass(slots=True)
class Budget:
    """What is left of a step while it is decided who runs."""

    chunk_tokens: int
    """Tokens beyond the one that is set aside for each running sequence."""
    free_blocks: int
    """Free blocks not yet counted for anyone in this step."""
    promised_blocks: int = 0
    """Blocks that running requests need to finish what they have begun to compute."""
    is_short: bool = False
    """Blocks have run short: nobody is admitted any more."""
    forms_batch: bool = False
    """A static batch begins with this step: all that fit are admitted, even where no tokens are left for them."""


class Chooser:
    """Decides who runs, by counting blocks. Of the memory itself it takes only what a request that it admits gets
    back (found blocks, and those from the swap space), and gives back what a request holds that it preempts."""

    def __init__(
        self,
        limits: Limits,
        memory: KVManager,
        queues: Queues,
        preemption: Preemption,
        writer: PlanWriter,
        *,
        may_draft: bool,
        is_static: bool,
    ) -> None:
        """With `is_static` requests run in batches that nobody joins."""
        self._limits = limits
        self._memory = memory
        self._queues = queues
        self._preemption = preemption
        self._writer = writer
        self._may_draft = may_draft
        self._is_static = is_static

    def choose(self) -> list[Allotment]:
        """What each request does in the next step, in order of rank. A step preempts or admits, but never both: what is
        moved out of the pool and what comes back would meet in the swap space."""
        num_spare = self._limits.max_num_batched_tokens - self._queues.num_running_sequences
        budget = Budget(num_spare, self._memory.num_free_blocks, forms_batch=self._forms_batch())
        allotments = self._choose_running(budget)
        if not budget.is_short:
            self._choose_waiting(budget, allotments)
        if self._may_draft:
            self._choose_drafts(budget, allotments)
        return allotments

    def _forms_batch(self) -> bool:
        """Whether a static batch begins with this step: all requests that have begun are over. Preempted ones are not,
        and would wait before all others."""
        waiting = self._queues.next
        has_begun = waiting is not None and waiting.first_scheduled_s is not None
        return self._is_static and not (has_begun or self._queues.num_running)

    def _choose_running(self, budget: Budget) -> list[Allotment]:
        """The running requests' allotments, and those of waiting ones that rank before some of them; where blocks run
        out the last in rank is preempted."""
        allotments: list[Allotment] = []
        running, num_admitted, is_stuck = self._queues.running, 0, False
        for place, request in enumerate(running):
            if not request.is_running:
                break
            if self._is_overtaken(request) and not (is_stuck or budget.is_short):
                num_admitted += self._admit_between(budget, allotments, running[place:])
                is_stuck = self._is_overtaken(request)
            if request.waits_for_results:
                continue
            allotment = allot(request, budget.chunk_tokens + request.num_places, self._memory)
            needed = num_blocks_needed(allotment, self._memory)
            budget.is_short |= needed > budget.free_blocks
            if budget.is_short and num_admitted:
                return allotments  # the others go on in the next step
            while needed > budget.free_blocks:
                victim = self._queues.last
                budget.free_blocks += self._preempt(victim, needed_by=request)
                if victim is request:
                    return allotments
            self._charge(budget, allotment, needed)
            allotments.append(allotment)
        return allotments

    def _is_overtaken(self, request: Request) -> bool:
        """Whether somebody who waits ranks before a running request."""
        waiting = self._queues.next
        return waiting is not None and waiting.rank < request.rank

    def _admit_between(self, budget: Budget, allotments: list[Allotment], behind: list[Request]) -> int:
        """Admit those who rank before some of the running requests, which so get a step's tokens after them. The blocks
        that these need until they sample are promised. Returns how many were admitted."""
        owed = sum(request.num_blocks_missing(self._limits.demand) for request in behind)
        num_before = len(allotments)
        budget.promised_blocks += owed
        self._choose_waiting(budget, allotments, before=behind[0])
        budget.promised_blocks -= owed
        return len(allotments) - num_before

    def _choose_waiting(self, budget: Budget, allotments: list[Allotment], before: Request | None = None) -> None:
        """Admit from the head of the queue what fits whole: its sequences, and the blocks until they can sample.

        Args:
            before: whom those admitted must rank before; None for all.
        """
        while (request := self._queues.next) is not None and (before is None or request.rank < before.rank):
            num_sequences, num_running = request.num_places, self._queues.num_running_sequences
            if self._is_static and not budget.forms_batch and request.first_scheduled_s is None:
                return  # nobody joins a batch that has begun
            if num_running + num_sequences > self._limits.max_num_seqs:
                return
            if request.waits_for_results or (num_sequences > budget.chunk_tokens and not budget.forms_batch):
                return
            if request.is_computed_whole and len(request.prompt_token_ids) > budget.chunk_tokens:
                return
            spare_blocks = budget.free_blocks - budget.promised_blocks - num_running // HEADROOM
            found = recall.find(request, self._memory)
            if found.num_blocks_missing(request, self._limits.demand) > max(0, spare_blocks):
                return
            if not self._reserve(request):
                return
            self._admit(request, found)
            budget.free_blocks -= found.num_blocks_taken
            allotment = allot(request, budget.chunk_tokens, self._memory)
            budget.chunk_tokens = max(0, budget.chunk_tokens - num_sequences)
            self._charge(budget, allotment, num_blocks_needed(allotment, self._memory))
            allotments.append(allotment)

    def _choose_drafts(self, budget: Budget, allotments: list[Allotment]) -> None:
        """Let requests compute the drafts of their sequences in what everyone else has left: so drafts preempt nobody.

        What is promised, and the blocks that each running sequence may need for its next token, stay free: the next
        step may be planned before it is known which drafts were accepted. A step has no more drafts than sequences may
        run, as each has logits of its own.
        """
        num_left = min(budget.chunk_tokens, self._limits.max_num_seqs)
        num_next = self._queues.num_running_sequences * len(self._limits.demand.layer_groups.groups)
        spare_blocks = max(0, budget.free_blocks - budget.promised_blocks - num_next)
        for place, allotment in enumerate(allotments):
            if not allotment.request.drafts:
                continue
            longer = with_drafts(allotment, num_left)
            num_blocks = num_blocks_needed(longer, self._memory) - num_blocks_needed(allotment, self._memory)
            if num_blocks <= spare_blocks:
                spare_blocks -= num_blocks
                num_left -= longer.num_tokens - allotment.num_tokens
                allotments[place] = longer

    def _charge(self, budget: Budget, allotment: Allotment, num_blocks: int) -> None:
        request = allotment.request
        budget.free_blocks -= num_blocks
        if not request.is_decoding:
            budget.chunk_tokens -= max(0, allotment.num_tokens - request.num_places)
            budget.promised_blocks += max(0, request.num_blocks_missing(self._limits.demand) - num_blocks)

    def _reserve(self, request: Request) -> bool:
        """Set memory aside for the request, as long as its sequences are expected to get: a preempted one may have been
        longer than its hint said, and gets room for its longest."""
        hint, num_prompt = request.message.output_len_hint, len(request.prompt_token_ids)
        num_tokens = request.max_len
        if hint is not None and not request.memory_use.num_preemptions:
            num_tokens = min(num_tokens, num_prompt + hint)
        tables = [sequence.table for sequence in request.sequences]
        return self._memory.reserve(tables, request.num_places, num_prompt, num_tokens)

    def _admit(self, request: Request, found: Recall) -> None:
        """Let a request run, with the blocks that were found for it: held from now on, so that nothing evicts them."""
        swapped_in = recall.take(found, request, self._memory)
        self._writer.resume([*found.hits, *found.saved], swapped_in)
        self._queues.admit(request)
        if request.first_scheduled_s is None:
            request.first_scheduled_s = time.monotonic()

    def _preempt(self, request: Request, needed_by: Request) -> int:
        """Take a request's blocks away; it waits in the place of its rank. Returns the blocks that are free now."""
        free_before = self._memory.num_free_blocks
        told = self._preemption.take_blocks(request, self._memory, self._writer)
        freed = self._memory.num_free_blocks - free_before
        self._queues.preempt(request)
        logger.info(
            "preempted %s, the last in rank, for %s: %d blocks freed, %s",
            request.request_id,
            needed_by.request_id,
            freed,
            told,
        )
        return freed
