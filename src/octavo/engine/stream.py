"""What one request gets of the engine, from its coming to its being taken."""

import asyncio
from collections import deque
from typing import Self

from octavo.errors import OctavoError, RequestError
from octavo.scheduling.messages import RequestUpdate

MAX_WAITING_TOKENS = 16384
"""Of a request: those that the engine has given and nobody has taken. A reader further behind loses its request, so
that what waits for readers that never read stays small."""


class RequestStream:
    """A request's updates as they come. Iterating ends with the request; it raises what ended it otherwise."""

    def __init__(self, request_id: str, num_sequences: int, rank: float = 0.0) -> None:
        self.request_id = request_id
        self.rank = rank
        """Its place in the engine's queue (`Policy`)."""
        self.has_begun = False
        """An update has come."""
        self._open = set(range(num_sequences))
        self._updates: deque[RequestUpdate] = deque()
        self._num_waiting_tokens = 0
        self._error: OctavoError | None = None
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return not self._open or self._error is not None

    @property
    def is_left_behind(self) -> bool:
        """Nobody takes the updates."""
        return self._num_waiting_tokens > MAX_WAITING_TOKENS

    def put(self, update: RequestUpdate) -> None:
        """Take an update."""
        self.has_begun = True
        self._open -= {sequence.index for sequence in update.sequences if sequence.finish_reason is not None}
        self._updates.append(update)
        self._num_waiting_tokens += _num_tokens(update)
        self._news.set()

    def close_sequence(self, index: int) -> None:
        """Count a sequence as over that was aborted."""
        self._open.discard(index)
        self._news.set()

    def fail_left_behind(self) -> None:
        """End a stream that nobody takes from fast enough."""
        self.fail(RequestError(f"the answer's reader is over {MAX_WAITING_TOKENS} tokens behind: read faster"))

    def fail(self, error: OctavoError) -> None:
        self._error = error
        self._news.set()

    def take_ready(self) -> list[RequestUpdate]:
        """The updates that have come and were not taken, without waiting."""
        ready = list(self._updates)
        self._updates.clear()
        self._num_waiting_tokens = 0
        return ready

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RequestUpdate:
        while not self._updates:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        update = self._updates.popleft()
        self._num_waiting_tokens -= _num_tokens(update)
        return update


def _num_tokens(update: RequestUpdate) -> int:
    return sum(len(sequence.token_ids) for sequence in update.sequences)
