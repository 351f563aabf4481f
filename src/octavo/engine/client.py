"""The front's end of an engine in another process."""

import asyncio
import socket
import time
from collections.abc import Callable

import msgspec
import psutil

from octavo import lifeline
from octavo.config import EngineConfig
from octavo.engine.channel import Unframer, framed
from octavo.engine.pace import AdmissionPace
from octavo.engine.stream import RequestStream
from octavo.engine.wire import (
    Abort,
    EngineLoad,
    Pin,
    Pinned,
    Ready,
    Refusal,
    Submit,
    Updates,
    decode_event,
    encode,
)
from octavo.errors import EngineError, FailedRequestError, OctavoError, error_named
from octavo.execution.machine import address_space_limit
from octavo.scheduling.admission import Limits
from octavo.scheduling.messages import EngineRequest, RequestUpdate
from octavo.scheduling.policy import Policy, check_priority


class EngineClient:
    """Starts an engine process and speaks with it from one asyncio loop.

    `submit` and `abort` are plain calls: they are done when they return, so nothing can be cancelled in their middle.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start the process; it loads the model while the caller goes on with its own start."""
        self._config = config
        self._policy = Policy()
        self._pace = AdmissionPace()
        self._socket, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            arguments = [str(descriptor), msgspec.json.encode(config).decode()]
            self._process = lifeline.start("octavo.engine.process", arguments, [descriptor])
        self._transport: asyncio.Transport | None = None
        self._streams: dict[str, RequestStream] = {}
        self._failure: OctavoError | None = None
        self._ready: asyncio.Future[Ready] | None = None
        self._pinned: asyncio.Future[Pinned] | None = None
        self._mourning: asyncio.Task[None] | None = None
        self.load: EngineLoad | None = None
        """What the engine last said that it is doing."""
        self._busy_since_s = 0.0
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
        self._transport, _ = await loop.create_connection(lambda: _Events(self._take, self._lost), sock=self._socket)
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

    def expected_wait_s(self, arrival_s: float, num_prompt_tokens: int, priority: int = 0) -> float:
        """Seconds that a new request would wait before it begins: for those that wait and go before it, at the pace at
        which such have begun lately (`AdmissionPace`). 0 while nobody waits.

        Args:
            arrival_s: now, by `time.monotonic()`.
        """
        if self.load is None or not self.load.num_waiting:
            return 0.0
        rank = self._policy.rank(arrival_s, num_prompt_tokens, priority)
        silent = [stream for stream in self._streams.values() if not stream.has_begun]
        num_silent_running = self.load.num_running - (len(self._streams) - len(silent))
        num_before = sum(stream.rank <= rank for stream in silent) - max(0, num_silent_running)
        return self._pace.wait_s(num_before, arrival_s)

    def check_priority(self, priority: int) -> None:
        """Refuse a request's priority that the engine would refuse.

        Raises:
            RequestError: the message names the flag.
        """
        check_priority(priority, self._policy.name)

    @property
    def failure(self) -> OctavoError | None:
        """What the engine died of, if it has."""
        return self._failure

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has stopped the engine process (SIGSTOP): it gets on with nothing until it is continued."""
        try:
            return bool(psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    @property
    def silent_s(self) -> float:
        """Seconds that requests have been open without any step; 0 where none is."""
        if not self._streams:
            return 0.0
        return asyncio.get_running_loop().time() - max(self._busy_since_s, self.last_report_s or 0.0)

    def submit(self, request: EngineRequest) -> RequestStream:
        """Hand a request to the engine.

        Raises:
            EngineError: the engine is dead.
        """
        if self._failure is not None:
            raise self._failure
        message = encode(Submit(request))
        rank = self._policy.rank(request.arrival_s, len(request.prompt_token_ids), request.priority)
        stream = RequestStream(request.request_id, request.params.n, rank)
        if not self._streams:
            self._busy_since_s = asyncio.get_running_loop().time()
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
        """End the engine process, and with it its own; it has nothing to lose but what is dropped here."""
        self._failure = self._failure or EngineError("the engine has been shut down")
        self._fail_streams(self._failure)
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        if self._mourning is not None:
            await self._mourning
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._transport is not None:
            self._transport.close()
        self._socket.close()

    def _send(self, command: bytes) -> None:
        if self._transport is not None:
            self._transport.write(framed(command))

    def _take(self, message: bytes) -> None:
        """Take an event of the engine's. One that cannot be read would leave somebody waiting for ever."""
        try:
            event = decode_event(message)
        except msgspec.DecodeError as error:
            self._die(EngineError(f"the engine process said what cannot be understood: {error!r:.300}"))
            return
        self.last_report_s = asyncio.get_running_loop().time()
        if isinstance(event, Updates):
            self.load = event.load
            self._pace.learn(event.load.num_begun, event.load.num_waiting, time.monotonic())
            for update in event.updates:
                self._deliver(update)
        elif isinstance(event, Refusal):
            stream = self._streams.pop(event.request_id, None)
            if stream is not None:
                stream.fail(error_named(event.kind, event.message))
        elif isinstance(event, Ready):
            config, longest = self._config, event.limits.max_model_len
            self._policy = Policy(config.scheduling_policy, config.overtaking_time, longest)
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(event)
        elif isinstance(event, Pinned):
            if self._pinned is not None and not self._pinned.done():
                self._pinned.set_result(event)
        else:
            self._die(error_named(event.kind, event.message))

    def _lost(self) -> None:
        """The engine's end of the socket is closed: all that it said has been heard."""
        if self._failure is None:
            self._mourning = asyncio.get_running_loop().create_task(self._tell_of_the_end())

    async def _tell_of_the_end(self) -> None:
        status = await asyncio.to_thread(self._process.wait)
        limit = address_space_limit()
        hint = "" if limit is None else f"; ulimit -v allows it {limit // 2**20:,} MiB of address space: raise that"
        self._die(EngineError(f"the engine process ended with status {status}{hint}"))

    def _deliver(self, update: RequestUpdate) -> None:
        stream = self._streams.get(update.request_id)
        if stream is None:
            return
        if stream.is_left_behind:
            self.abort(stream)
            stream.fail_left_behind()
            return
        if update.error is not None:
            del self._streams[update.request_id]
            stream.fail(FailedRequestError(update.error))
            return
        stream.put(update)
        if stream.is_over:
            del self._streams[update.request_id]

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


class _Events(asyncio.Protocol):
    """Hands over the engine's messages as they come, and tells of its end."""

    def __init__(self, take: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._take = take
        self._lost = lost
        self._unframer = Unframer()

    def data_received(self, data: bytes) -> None:
        for message in self._unframer.messages(data):
            self._take(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()
