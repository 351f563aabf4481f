"""The step loop: plan, submit, update."""

import logging
from collections import deque
from typing import Self

from octavo.config import EngineConfig, KVAllocation, PreemptionMode, PrefixCacheScope, SchedulingPolicy
from octavo.engine.preparation import Preparation
from octavo.engine.wire import EngineLoad
from octavo.errors import ConfigError, EngineError, RequestError
from octavo.execution.executor import Executor, PendingOutput
from octavo.execution.faults import told
from octavo.memory import Ledger, make_demand, make_manager
from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate
from octavo.scheduling.plan_writer import ScheduledStep
from octavo.scheduling.policy import Policy
from octavo.scheduling.scheduler import Scheduler
from octavo.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

MAX_FAILED_STEPS = 8
"""Steps in a row that may fail before the engine gives up. Steps in which single rows fail go well."""


class Engine:
    """Requests in token ids go in, updates in token ids come out, one step at a time. It works only while `step` is
    called."""

    def __init__(
        self,
        executor: Executor,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_logprobs: int = 20,
        prefix_cache_scope: PrefixCacheScope = "tenant",
        preemption_mode: PreemptionMode = "auto",
        kv_allocation: KVAllocation = "paged",
        scheduling_policy: SchedulingPolicy = "fcfs",
        overtaking_time: float = 0.0,
    ) -> None:
        capacity = executor.capacity
        demand = make_demand(
            kv_allocation,
            capacity.block_size,
            capacity.layer_groups,
            max_model_len=capacity.max_model_len,
            max_tokens_in_flight=max_num_batched_tokens * executor.depth,
        )
        memory = make_manager(
            demand,
            capacity.num_blocks,
            num_swap_blocks=capacity.num_swap_blocks,
            block_bytes=capacity.block_bytes,
        )
        limits = Limits(
            num_blocks=capacity.num_blocks,
            block_size=capacity.block_size,
            max_model_len=capacity.max_model_len,
            vocab_size=capacity.vocab_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_logprobs=max_logprobs,
            demand=demand,
            capabilities=capacity.capabilities,
        )
        self.executor = executor
        self.scheduler = Scheduler(
            limits,
            memory,
            capacity.eos_token_ids,
            prefix_cache_scope=prefix_cache_scope,
            preemption_mode=preemption_mode,
            max_drafts=capacity.max_drafts,
            foretells=capacity.foretells,
            policy=Policy(scheduling_policy, overtaking_time, capacity.max_model_len),
        )
        self._preparation = Preparation(executor.prepare)
        self.num_steps = 0
        self.fullest = self.ledger()
        """The ledger of the step that held the most blocks so far."""
        self.watch = Stopwatch("schedule", "execute", "update")
        self._in_flight: deque[tuple[ScheduledStep, PendingOutput]] = deque()
        self._executing: ScheduledStep | None = None
        """The step that the executor is given or waited for, while it is."""
        self._num_failed_steps = 0
        """In a row."""

    @classmethod
    def configured(cls, executor: Executor, config: EngineConfig) -> Self:
        """An engine as the knobs say."""
        return cls(
            executor,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_logprobs=config.max_logprobs,
            prefix_cache_scope=config.prefix_cache_scope,
            preemption_mode=config.preemption_mode,
            kv_allocation=config.kv_allocation,
            scheduling_policy=config.scheduling_policy,
            overtaking_time=config.overtaking_time,
        )

    def pin(self, token_ids: list[int], name: str) -> None:
        """Compute the full blocks of a prefix and keep them for good, for requests of all tenants. Nothing else may be
        in the engine.

        Args:
            token_ids: what prompts will begin with.
            name: what an error calls it: its file.

        Raises:
            ConfigError: it does not fit into what other pins have left of the pool; or it is less than a block.
        """
        memory, size = self.scheduler.memory, self.scheduler.memory.block_size
        num_full, num_pinned = len(token_ids) // size, memory.num_pinned_blocks
        demand = self.scheduler.limits.demand
        num_blocks = demand.of_request(0, num_full * size, 1)
        if num_full == 0:
            raise ConfigError(f"--pin-prefix {name} has {len(token_ids)} tokens, less than a block of {size}")
        if num_blocks + len(demand.layer_groups.groups) > memory.num_blocks - num_pinned:
            raise ConfigError(
                f"--pin-prefix {name} takes {num_blocks} KV blocks of {size} tokens, and of the pool's "
                f"{memory.num_blocks} {num_pinned} are pinned already: one must be left for requests; shorten it or "
                "raise --kv-cache-memory"
            )
        pinned = token_ids[: num_full * size]
        try:
            self.scheduler.add_pin(pinned)
        except RequestError as error:
            raise ConfigError(f"--pin-prefix {name}: {error}") from error
        while self.has_unfinished:
            for update in self.step():
                if update.error is not None:
                    raise EngineError(f"--pin-prefix {name} could not be computed: {update.error}")
        self.scheduler.hold_pin(pinned)

    @property
    def in_flight(self) -> list[ScheduledStep]:
        """The steps that were submitted and are not collected, the oldest first."""
        return [step for step, _ in self._in_flight]

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has anything to do."""
        return self.scheduler.has_unfinished or len(self._preparation) > 0

    def add(self, request: EngineRequest) -> None:
        """Queue a request. One with a grammar is not scheduled before that is compiled, nor one with a reasoning
        section before its marks are known.

        Raises:
            RequestError: it can never be served here; the message says why. Nothing else is disturbed.
        """
        if request.request_id in self._preparation:
            raise RequestError(f"request id {request.request_id!r} is already in use")
        if request.grammar is not None or request.reasoning is not None:
            self.scheduler.check(request)
            if self._preparation.holds(request):
                return
        self.scheduler.add(request)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """End a request or one of its sequences at once, whatever its state; no update about it follows. False where it
        is over already."""
        if request_id in self._preparation and index is not None:
            self.scheduler.add(self._preparation.take(request_id))  # one of its sequences is to end, and not it
        return self._preparation.drop(request_id) or self.scheduler.abort(request_id, index)

    def expire(self, now_s: float) -> list[EngineRequest]:
        """Drop the requests that were to begin by now (`start_by_s`) and have not; no update about them follows."""
        return self._preparation.expire(now_s) + self.scheduler.expire(now_s)

    def step(self) -> list[RequestUpdate]:
        """Plan and submit a step; once as many are in flight as the executor takes, collect the oldest.

        A step that fails ends the requests that have a part in it, or in one in flight; the others go on.

        Raises:
            EngineError: the executor can run no step any more, or `MAX_FAILED_STEPS` in a row have failed. As after
                anything else that is raised, Ctrl-C for one, every request is dropped and the engine is as new.
        """
        try:
            try:
                updates = self._step()
            except Exception as error:
                return self._failed_step(error)
        except BaseException:
            self._in_flight.clear()
            self._executing = None
            self._preparation.clear()
            self.scheduler.reset()
            raise
        self._num_failed_steps = 0
        return updates

    def _failed_step(self, error: Exception) -> list[RequestUpdate]:
        """End the requests of a step that has failed. Where the books themselves have failed, those are all that have
        begun."""
        self.executor.check()
        self._num_failed_steps += 1
        if self._num_failed_steps >= MAX_FAILED_STEPS:
            raise EngineError(
                f"{self._num_failed_steps} steps in a row have failed, the last one with {told(error)}"
            ) from error
        logger.error("a step failed, and its requests with it", exc_info=error)
        executing, self._executing = self._executing, None
        in_flight = [scheduled for scheduled, _ in self._in_flight]
        self._in_flight.clear()
        if executing is None:
            return self.scheduler.fail_begun(told(error))
        return self.scheduler.fail_steps([executing, *in_flight], told(error))

    def _step(self) -> list[RequestUpdate]:
        self.watch.start()
        is_idle = not (self.scheduler.has_unfinished or self._in_flight)
        for ready in self._preparation.take_ready(is_idle):
            self.scheduler.add(ready)
        scheduled = self.scheduler.schedule()
        self.watch.lap("schedule")
        if self.scheduler.memory.num_used_blocks > self.fullest.num_used_blocks:
            self.fullest = self.ledger()
        if not scheduled.plan.is_empty:
            self._executing = scheduled
            self._in_flight.append((scheduled, self.executor.submit(scheduled.plan)))
            self.num_steps += 1
            if len(self._in_flight) < self.executor.depth:
                self._executing = None
                return []
        if not self._in_flight:
            if self.scheduler.has_unfinished:
                raise EngineError(
                    f"the scheduler has {self.scheduler.num_waiting} waiting and "
                    f"{self.scheduler.num_running} running requests and plans nothing"
                )
            return []
        oldest, pending = self._in_flight.popleft()
        self._executing = oldest
        output = pending.result()
        self._executing = None
        self.watch.lap("execute")
        updates = self.scheduler.update(oldest, output)
        self.watch.lap("update")
        return updates

    def reset_prefix_cache(self) -> bool:
        """Forget what past requests have left in memory for others to find, but for the pins. False, and nothing is
        forgotten, where requests are not over.

        Raises:
            EngineError: the engine has been closed.
        """
        self.executor.check()
        if self.has_unfinished:
            return False
        self.scheduler.reset()
        return True

    def ledger(self) -> Ledger:
        """The account of the KV memory at this moment."""
        return self.scheduler.ledger()

    @property
    def load(self) -> EngineLoad:
        """What the engine is doing at this moment."""
        return EngineLoad(
            ledger=self.ledger(),
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting + len(self._preparation),
            num_steps=self.num_steps,
            num_begun=self.scheduler.queues.num_begun,
            drafts=self.scheduler.draft_use,
        )

    def close(self) -> None:
        self.executor.close()
