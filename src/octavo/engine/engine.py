"""The step loop: plan, submit, update."""

from collections import deque

from octavo.errors import EngineError
from octavo.execution.executor import Executor, Step
from octavo.memory import Ledger
from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate
from octavo.scheduling.request import TokenMask
from octavo.scheduling.scheduler import ScheduledStep, Scheduler


class Engine:
    """Requests in token ids go in, updates in token ids come out, one step at a time. It works only while `step` is
    called."""

    def __init__(
        self, executor: Executor, *, max_num_seqs: int, max_num_batched_tokens: int, max_logprobs: int = 20
    ) -> None:
        capacity = executor.capacity
        limits = Limits(
            num_blocks=capacity.num_blocks,
            block_size=capacity.block_size,
            max_model_len=capacity.max_model_len,
            vocab_size=capacity.vocab_size,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_logprobs=max_logprobs,
        )
        self.executor = executor
        self.scheduler = Scheduler(limits, capacity.eos_token_ids)
        self.num_steps = 0
        self.fullest = self.ledger()
        """The ledger of the step that held the most blocks so far."""
        self._in_flight: deque[tuple[ScheduledStep, Step]] = deque()

    @property
    def has_unfinished(self) -> bool:
        """Whether `step` has anything to do."""
        return self.scheduler.has_unfinished

    def add(self, request: EngineRequest, token_mask: TokenMask | None = None) -> None:
        """Queue a request.

        Raises:
            RequestError: it can never be served here; the message says why. Nothing else is disturbed.
        """
        self.scheduler.add(request, token_mask)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """End a request or one of its sequences at once, whatever its state; no update about it follows. False where it
        is over already."""
        return self.scheduler.abort(request_id, index)

    def step(self) -> list[RequestUpdate]:
        """Plan and submit a step; once as many are in flight as the executor takes, collect the oldest.

        Whatever is raised on the way, Ctrl-C included, leaves counts ahead of what has run: then every request is
        dropped, and the engine is as new.
        """
        try:
            return self._step()
        except BaseException:
            self._in_flight.clear()
            self.scheduler.reset()
            raise

    def _step(self) -> list[RequestUpdate]:
        scheduled = self.scheduler.schedule()
        if self.scheduler.memory.num_used_blocks > self.fullest.num_used_blocks:
            self.fullest = self.ledger()
        if not scheduled.plan.is_empty:
            self._in_flight.append((scheduled, self.executor.submit(scheduled.plan)))
            self.num_steps += 1
            if len(self._in_flight) < self.executor.depth:
                return []
        if not self._in_flight:
            if self.has_unfinished:
                raise EngineError(
                    f"the scheduler has {self.scheduler.num_waiting} waiting and "
                    f"{self.scheduler.num_running} running requests and plans nothing"
                )
            return []
        oldest, step = self._in_flight.popleft()
        return self.scheduler.update(oldest, step.result())

    def ledger(self) -> Ledger:
        """The account of the KV memory at this moment."""
        return self.scheduler.ledger()

    def close(self) -> None:
        self.executor.close()
