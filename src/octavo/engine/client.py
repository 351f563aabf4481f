"""The front's end of an engine in another process."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from typing import Self

import msgspec
import zmq
import zmq.asyncio

from octavo.config import EngineConfig
from octavo.engine.wire import (
    Abort,
    EngineLoad,
    Pin,
    Pinned,
    Ready,
    Refusal,
    Shutdown,
    Submit,
    Updates,
    decode_event,
    encode,
)
from octavo.errors import EngineError, FailedRequestError, OctavoError, RequestError, error_named
from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate

EXIT_WAIT_S = 5.0
"""How long a process that was told to stop may take before it is killed."""


class RequestStream:
    """A request's updates as they come. Iterating ends with the request; it raises what ended it otherwise."""

    def __init__(self, request_id: str, num_sequences: int) -> None:
        self.request_id = request_id
        self._open = set(range(num_sequences))
        self._updates: deque[RequestUpdate] = deque()
        self._error: OctavoError | None = None
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        return not self._open or self._error is not None

    def put(self, update: RequestUpdate) -> None:
        """Take an update."""
        self._open -= {sequence.index for sequence in update.sequences if sequence.finish_reason is not None}
        self._updates.append(update)
        self._news.set()

    def close_sequence(self, index: int) -> None:
        """Count a sequence as over that was aborted."""
        self._open.discard(index)
        self._news.set()

    def fail(self, error: OctavoError) -> None:
        self._error = error
        self._news.set()

    def take_ready(self) -> list[RequestUpdate]:
        """The updates that have come and were not taken, without waiting."""
        ready = list(self._updates)
        self._updates.clear()
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
        return self._updates.popleft()


class EngineClient:
    """Starts an engine process and speaks with it from one asyncio loop.

    `submit` and `abort` are plain calls: they are done when they return, so nothing can be cancelled in their middle.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start the process; it loads the model while the caller goes on with its own start."""
        self._folder = tempfile.mkdtemp(prefix="octavo-")
        commands, events = (f"ipc://{self._folder}/{name}" for name in ("commands", "events"))
        self._context = zmq.asyncio.Context()
        self._commands = zmq.Context(self._context).socket(zmq.PUSH)
        self._events = self._context.socket(zmq.PULL)
        for socket, address in ((self._commands, commands), (self._events, events)):
            socket.set_hwm(0)
            socket.bind(address)
        module = [sys.executable, "-m", "octavo.engine.process"]
        arguments = [commands, events, msgspec.json.encode(config).decode()]
        self._process = subprocess.Popen([*module, *arguments], stdin=subprocess.PIPE, start_new_session=True)
        self._streams: dict[str, RequestStream] = {}
        self._failure: OctavoError | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._pinned: asyncio.Future[Pinned] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.load: EngineLoad | None = None
        """What the engine last said that it is doing."""
        self.last_report_s: float | None = None
        """When that was, in the loop's time."""
        self.on_death: Callable[[OctavoError], None] = lambda error: None
        """Called once, when the engine fails or its process ends unasked."""

    async def connect(self) -> Ready:
        """Wait until the engine is ready.

        Raises:
            OctavoError: what kept the engine from starting, as its own kind of error.
        """
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        listening = loop.create_task(self._listen())
        listening.add_done_callback(self._stopped_listening)
        self._tasks.append(listening)
        threading.Thread(target=self._watch, args=(loop,), daemon=True).start()
        return await self._ready

    async def pin(self, token_ids: list[int], name: str) -> Limits:
        """Keep a prefix's blocks for good, before any request is submitted. Returns what requests can have now.

        Raises:
            OctavoError: it does not fit, and the engine has ended.
        """
        self._pinned = asyncio.get_running_loop().create_future()
        self._send(encode(Pin(token_ids, name)))
        return (await self._pinned).limits

    @property
    def num_open(self) -> int:
        """Requests that are not over."""
        return len(self._streams)

    @property
    def failure(self) -> OctavoError | None:
        """What the engine died of, if it has."""
        return self._failure

    def submit(self, request: EngineRequest) -> RequestStream:
        """Hand a request to the engine.

        Raises:
            EngineError: the engine is dead.
        """
        if self._failure is not None:
            raise self._failure
        message = encode(Submit(request))
        stream = RequestStream(request.request_id, request.params.n)
        self._streams[request.request_id] = stream
        self._send(message)
        return stream

    def abort(self, stream: RequestStream, index: int | None = None) -> None:
        """End a request, or one of its sequences that the engine still runs. Without effect on one that is over."""
        if stream.request_id not in self._streams or self._failure is not None:
            return
        if index is None:
            del self._streams[stream.request_id]
        else:
            stream.close_sequence(index)
            if stream.is_over:
                del self._streams[stream.request_id]
        self._send(encode(Abort(stream.request_id, index)))

    async def close(self) -> None:
        """Stop the engine process, drop what is left, remove the sockets."""
        for task in self._tasks:
            task.cancel()
        self._failure = self._failure or EngineError("the engine has been shut down")
        self._fail_streams(self._failure)
        self._send(encode(Shutdown()))
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.to_thread(self._process.wait, EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._commands.close(linger=0)
        self._events.close(linger=0)
        self._context.term()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, command: bytes) -> None:
        try:
            self._commands.send(command, zmq.NOBLOCK)
        except zmq.Again:  # the queue has no bound, so this says that nobody is at the other end
            self._die(EngineError("the engine process is gone"))

    async def _listen(self) -> None:
        """Take the engine's events in order."""
        loop = asyncio.get_running_loop()
        while True:
            event = decode_event(await self._events.recv())
            self.last_report_s = loop.time()
            if isinstance(event, Updates):
                self.load = event.load
                for update in event.updates:
                    self._deliver(update)
            elif isinstance(event, Refusal):
                stream = self._streams.pop(event.request_id, None)
                if stream is not None:
                    stream.fail(RequestError(event.message))
            elif isinstance(event, Ready):
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(event)
            elif isinstance(event, Pinned):
                if self._pinned is not None and not self._pinned.done():
                    self._pinned.set_result(event)
            else:
                self._die(error_named(event.kind, event.message))

    def _stopped_listening(self, listening: asyncio.Task[None]) -> None:
        """An event that cannot be read leaves everybody waiting for ever: the engine is as good as dead."""
        if not listening.cancelled() and (error := listening.exception()) is not None:
            self._die(EngineError(f"the engine process said what cannot be understood: {error!r:.300}"))

    def _deliver(self, update: RequestUpdate) -> None:
        stream = self._streams.get(update.request_id)
        if stream is None:
            return
        if update.error is not None:
            del self._streams[update.request_id]
            stream.fail(FailedRequestError(update.error))
            return
        stream.put(update)
        if stream.is_over:
            del self._streams[update.request_id]

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: wait for the process to end. What it said last is heard first."""
        status = self._process.wait()
        error = EngineError(f"the engine process ended with status {status}")
        try:
            loop.call_soon_threadsafe(lambda: loop.call_later(0.2, self._die, error))
        except RuntimeError:
            return  # the loop is closed: the front is ending too

    def _die(self, error: OctavoError) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._fail_streams(error)
        for awaited in (self._ready, self._pinned):
            if awaited is not None and not awaited.done():
                awaited.set_exception(error)
        self.on_death(error)

    def _fail_streams(self, error: OctavoError) -> None:
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
