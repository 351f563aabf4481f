"""Requests that come at their times, through an engine: simulated, or for real on the same lines of code."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from octavo.engine.engine import Engine
from octavo.errors import EngineError, RequestError
from octavo.evaluation.simulator.fast_forward import FastForward
from octavo.evaluation.simulator.tally import Holdings, Tally
from octavo.evaluation.simulator.traffic import Arrival
from octavo.execution.simulated import SimulatedExecutor
from octavo.scheduling.messages import EngineRequest, RequestUpdate

FIRST_ID = 100
"""The lowest ids are a vocabulary's special tokens."""


class Clock(Protocol):
    """What time it is for the engine, in seconds since its start."""

    def now_s(self) -> float: ...

    def wait_until(self, second: float) -> None:
        """Nothing is to be done before then."""
        ...

    def step(self, engine: Engine, until_s: float) -> list[RequestUpdate]:
        """Let the engine make its next step, or several of those that begin before a second."""
        ...


class SimulatedClock:
    """A simulated executor's.

    Args:
        fast_forwards: steps without an event are made at once, and not one by one.
    """

    def __init__(self, executor: SimulatedExecutor, *, fast_forwards: bool = True) -> None:
        self._executor = executor
        self._fast_forward = FastForward(executor) if fast_forwards else None

    def now_s(self) -> float:
        return self._executor.clock_s

    def wait_until(self, second: float) -> None:
        self._executor.clock_s = max(second, self._executor.clock_s)

    def step(self, engine: Engine, until_s: float) -> list[RequestUpdate]:
        updates = self._fast_forward.steps(engine, until_s) if self._fast_forward else []
        return updates or engine.step()


class RealClock:
    """The system's."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self._start_s

    def wait_until(self, second: float) -> None:
        time.sleep(max(0.0, second - self.now_s()))

    def step(self, engine: Engine, until_s: float) -> list[RequestUpdate]:
        return engine.step()


class Replay:
    """One engine's share of the requests.

    Args:
        done: told when a request is answered or refused.
        answers_batches: requests count as answered when nobody runs any more, as static batches are given back whole.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        done: Callable[[], object] = lambda: None,
        *,
        answers_batches: bool = False,
    ) -> None:
        self.tally = Tally()
        self._engine = engine
        self._clock = clock
        self._done = done
        self._answers_batches = answers_batches
        self._over: list[_Open] = []
        """Of the batch that runs, those that are."""
        self._open: dict[str, _Open] = {}
        self._num_added = 0
        self._vocab_size = engine.executor.capacity.vocab_size
        self._looked_s = 0.0
        self._seen: Holdings | None = None
        """What was there at the last look; None where there was none."""

    def run(self, arrivals: Iterable[Arrival], gives_up: Callable[[Tally], bool] = lambda _: False) -> Tally:
        """Serve them all. Those that could never be served are counted as refused, and of others the tokens that they
        get: where a request alone fills the memory, the scheduler ends it.

        Args:
            gives_up: asked after steps whether to leave it at what is known so far; what is not over is aborted.

        Raises:
            EngineError: a request has failed.
        """
        engine, clock = self._engine, self._clock
        coming = iter(arrivals)
        following = next(coming, None)
        self._looked_s, num_steps = clock.now_s(), engine.num_steps
        before = engine.ledger().totals
        while following is not None or engine.has_unfinished:
            if following is not None and not engine.has_unfinished:
                clock.wait_until(following.arrival_s)
                self._looked_s, self._seen = clock.now_s(), None
            while following is not None and following.arrival_s <= clock.now_s():
                self._add(following)
                following = next(coming, None)
            if not engine.has_unfinished:
                continue
            updates = clock.step(engine, math.inf if following is None else following.arrival_s)
            now_s = clock.now_s()
            for update in updates:
                self._take(update, now_s)
            if self._over and not (self._answers_batches and engine.scheduler.num_running):
                self._answer(now_s)
            self._look(now_s)
            if gives_up(self.tally):
                for request_id in self._open:
                    engine.abort(request_id)
                break
        totals, counts = engine.ledger().totals, self.tally.counts
        counts["steps"] += engine.num_steps - num_steps
        counts["preemptions"] += totals.num_preemptions - before.num_preemptions
        counts["swaps"] += totals.num_swaps - before.num_swaps
        counts["recomputed_tokens"] += totals.num_recomputed_tokens - before.num_recomputed_tokens
        counts["hit_tokens"] += totals.num_hit_tokens - before.num_hit_tokens
        return self.tally

    def _look(self, now_s: float) -> None:
        scheduler = self._engine.scheduler
        now = Holdings.of(self._engine.ledger(), scheduler.num_running, scheduler.num_waiting)
        self.tally.moments.add(now_s, (self._seen or now).until(now), now_s - self._looked_s)
        self._looked_s, self._seen = now_s, now

    def _add(self, arrival: Arrival) -> None:
        number, self._num_added = self._num_added, self._num_added + 1
        request = EngineRequest(
            str(number),
            prompt_ids(number, arrival.prompt_tokens, self._vocab_size, arrival.prefix_tokens),
            arrival.decoding.params(arrival.output_tokens),
            arrival.arrival_s,
            seed=number,
            output_len_hint=arrival.output_tokens,
        )
        try:
            self._engine.add(request)
        except RequestError as error:
            self.tally.refuse(str(error))
            self._done()
            return
        self._open[request.request_id] = _Open(arrival)

    def _take(self, update: RequestUpdate, now_s: float) -> None:
        own = self._open[update.request_id]
        if update.error is not None:
            raise EngineError(f"request {update.request_id} of the replay has failed: {update.error}")
        for sequence in update.sequences:
            if sequence.token_ids and own.first_s is None:
                own.first_s = now_s
            own.num_tokens += len(sequence.token_ids)
            own.num_running -= sequence.finish_reason is not None
        if not own.num_running:
            self._over.append(self._open.pop(update.request_id))

    def _answer(self, now_s: float) -> None:
        """Count those that are over."""
        for own in self._over:
            arrival, first_s = own.arrival, now_s if own.first_s is None or self._answers_batches else own.first_s
            num_sequences = arrival.decoding.num_sequences
            self.tally.finish(
                arrival.arrival_s,
                first_s,
                now_s,
                arrival.prompt_tokens,
                own.num_tokens,
                num_sequences,
                is_short=own.num_tokens < arrival.output_tokens * num_sequences,
            )
            self._done()
        self._over.clear()


class _Open:
    """What is known of a request that is not over."""

    __slots__ = ("arrival", "first_s", "num_running", "num_tokens")

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.first_s: float | None = None
        self.num_running = arrival.decoding.num_sequences
        self.num_tokens = 0
        """Of its sequences together, so far."""


def prompt_ids(number: int, count: int, vocab_size: int, num_shared: int = 0) -> list[int]:
    """A prompt that no other request begins with: so no prefix cache finds any of it, but for the first `num_shared`
    tokens, which all begin with."""
    first, num_ids = (FIRST_ID, vocab_size - FIRST_ID) if vocab_size > 2 * FIRST_ID else (0, vocab_size)
    if num_shared:
        shared = [first + place % num_ids for place in range(num_shared)]
        return shared + prompt_ids(number, count - num_shared, vocab_size)
    own = [first + (number * 7919 + place * 31 + place * place % 17) % num_ids for place in range(min(count, 16))]
    digits = []
    while number:
        number, digit = divmod(number, num_ids)
        digits.append(first + digit)
    ids = (digits + own)[:count]
    return ids + [first + place % num_ids for place in range(count - len(ids))]
