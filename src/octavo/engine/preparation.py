"""Requests whose grammars are being compiled, or whose reasoning sections' marks are looked for. They wait here, so
that no step waits for a compiler."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from octavo.scheduling.messages import EngineRequest
from octavo.structured_outputs import Grammar, ReasoningSection

PATIENCE_S = 0.01
"""How long a step that has nothing else to do waits for a compiler before whoever makes steps hears of it."""


class Preparation:
    """Holds requests back until what their rows need is there.

    Args:
        prepare: begins to compile a grammar, or to look for a reasoning section's marks.
    """

    def __init__(self, prepare: Callable[[Grammar | ReasoningSection], "Future[Any]"]) -> None:
        self._prepare = prepare
        self._held: dict[str, tuple[EngineRequest, list[Future[Any]]]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._held

    def holds(self, request: EngineRequest) -> bool:
        """Take in a request that has a grammar or a section; False where it can begin at once."""
        missing = [self._prepare(each) for each in (request.grammar, request.reasoning) if each is not None]
        if all(each.done() for each in missing):
            return False
        self._held[request.request_id] = (request, missing)
        return True

    def take_ready(self, is_idle: bool) -> list[EngineRequest]:
        """The requests that can begin, in the order in which they came. Where steps have nothing else to do, it waits
        a moment for the first."""
        if is_idle and self._held:
            missing = [each for _, own in self._held.values() for each in own if not each.done()]
            wait(missing, PATIENCE_S, FIRST_COMPLETED)
        ready = [request for request, own in self._held.values() if all(each.done() for each in own)]
        for request in ready:
            del self._held[request.request_id]
        return ready

    def take(self, request_id: str) -> EngineRequest:
        """A request that is here, whether it can begin or not."""
        return self._held.pop(request_id)[0]

    def drop(self, request_id: str) -> bool:
        """Forget a request; False where it is not here."""
        return self._held.pop(request_id, None) is not None

    def expire(self, now_s: float) -> list[EngineRequest]:
        """Drop the requests that were to begin by now."""
        late = [own for own, _ in self._held.values() if own.start_by_s is not None and own.start_by_s <= now_s]
        for request in late:
            del self._held[request.request_id]
        return late

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
