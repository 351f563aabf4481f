"""One client's connection, on top of uvicorn's: how long it may take over what, and what it gives way to."""

import asyncio
import http
import logging
import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, cast

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from octavo.server.closing import GracefulTransport
from octavo.server.errors import ApiError

DISCARD_S = 5.0
"""For the rest of a body that nobody reads, once its request is answered: closing before would lose the answer."""
LEFT_AFTER_S = 1.0
"""From a client's end of sending until it is asked whether it still reads."""
ASK_EVERY_S = 0.2
TELL_EVERY_S = 60.0
"""Between two lines in the log about connections that were closed for want of room."""

logger = logging.getLogger(__name__)


class Phase(IntEnum):
    """What a connection waits for. At the limit of connections the lower ones are closed first."""

    IDLE = 0
    """A request."""
    HEAD = 1
    """The rest of a request's head."""
    DISCARDING = 2
    """The rest of a body whose request is answered."""
    RECEIVING = 3
    """The rest of a body. `Connection` bounds its time, and can answer."""
    ANSWERING = 4
    """The server."""
    CLOSING = 5
    """The client to read the last of it."""


@dataclass(slots=True, kw_only=True)
class ConnectionLimits:
    """What all connections of a server share. Times are in seconds."""

    max_connections: int
    keep_alive_s: float
    receive_s: float
    send_s: float
    told_s: float | None = None
    """When the log was last told that there are too many."""

    def of(self, phase: Phase) -> float | None:
        """How long a phase may last."""
        limits = {
            Phase.IDLE: self.keep_alive_s,
            Phase.HEAD: self.receive_s,
            Phase.DISCARDING: DISCARD_S,
            Phase.CLOSING: self.send_s,
        }
        return limits.get(phase)


class HttpProtocol(H11Protocol):
    """A connection that ends when its client takes too long, in whatever it has to do.

    Args:
        limits: shared with the other connections.
        arguments: uvicorn's.
    """

    def __init__(self, *, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._phase = Phase.CLOSING
        self._phase_since_s = 0.0
        self._phase_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._is_half_closed = False

    def abort(self) -> None:
        """Close at once, whatever has not been sent. The request, if there is one, ends as when its client leaves."""
        self.connections.discard(self)
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, in place of an idler one where there are too many."""
        graceful = GracefulTransport(cast(asyncio.Transport, transport), self._client_sends)
        super().connection_made(cast(asyncio.Transport, graceful))
        # An answer's last packet must not wait until the client has acknowledged the one before.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._note_phase()
        if len(self.connections) > self._limits.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the timers; uvicorn tells the request."""
        super().connection_lost(exc)
        for timer in (self._phase_timer, self._send_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes of requests."""
        if self._lingers:
            return
        super().data_received(data)
        self._note_phase()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Once its request is whole it may still wait for the answer."""
        if self._lingers:
            return False
        if self._phase is not Phase.ANSWERING:
            self.loop.call_soon(self._note_phase)  # once asyncio has closed it
            return False
        self._is_half_closed = True
        if self.scope["http_version"] == "1.1":
            self.loop.call_later(LEFT_AFTER_S, self._ask_whether_it_reads)
        return True

    def on_response_complete(self) -> None:
        """Go on with the next request, where one can come."""
        super().on_response_complete()
        self._note_phase()
        if self._is_half_closed and self._phase is not Phase.ANSWERING:
            self.transport.close()
            self._note_phase()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(self._limits.send_s, self.abort)

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()

    def shutdown(self) -> None:
        """End, after the answer if one is on its way."""
        if self._phase in (Phase.HEAD, Phase.DISCARDING, Phase.RECEIVING):
            self.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of other errors. A request whose body it was ends as when its client
        leaves, and one that is being answered already gets no second answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(ApiError(400, msg, code="invalid_http"))
        else:
            self.abort()

    @property
    def _socket(self) -> socket.socket:
        return cast(socket.socket, self.transport.get_extra_info("socket"))

    @property
    def _lingers(self) -> bool:
        """Answered and closed but for what the client still sends."""
        return cast(GracefulTransport, self.transport).lingers

    def _client_sends(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def _note_phase(self) -> None:
        phase = self._current_phase()
        if phase is self._phase:
            return
        self._phase, self._phase_since_s = phase, self.loop.time()
        if self._phase_timer is not None:
            self._phase_timer.cancel()
        limit_s = self._limits.of(phase)
        self._phase_timer = None if limit_s is None else self.loop.call_later(limit_s, self.abort)

    def _current_phase(self) -> Phase:
        if self._lingers:
            return Phase.DISCARDING
        if self.transport.is_closing():
            return Phase.CLOSING
        if self.cycle is not None and not self.cycle.response_complete:
            return Phase.RECEIVING if self.cycle.more_body else Phase.ANSWERING
        if self._client_sends():
            return Phase.DISCARDING
        return Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE

    def _make_room(self) -> None:
        """Close the connection that has waited longest in the lowest phase; this one, where all others are at work."""
        others = [each for each in self.connections if isinstance(each, HttpProtocol) and each is not self]
        idlest = min(others, key=lambda each: (each._phase, each._phase_since_s))
        self._tell_that_there_are_too_many()
        if idlest._phase < Phase.ANSWERING:
            idlest.abort()
        else:
            what = f"all {self._limits.max_connections} connections are at work: try again later"
            self._refuse(ApiError(503, f"{what}, or raise --max-connections", code="too_many_connections"))

    def _refuse(self, error: ApiError) -> None:
        """Answer what never became a request, and close."""
        content = msgspec.json.encode(error.body())
        headers = error.headers | {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
        }
        reason = http.HTTPStatus(error.status).phrase
        response = h11.Response(status_code=error.status, headers=list(headers.items()), reason=reason)
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        cast(GracefulTransport, self.transport).linger()
        self._note_phase()

    def _tell_that_there_are_too_many(self) -> None:
        now_s = self.loop.time()
        if self._limits.told_s is None or now_s - self._limits.told_s > TELL_EVERY_S:
            self._limits.told_s = now_s
            logger.warning(
                "there are over %d connections: the idlest are closed; raise --max-connections (and ulimit -n)",
                self._limits.max_connections,
            )

    def _ask_whether_it_reads(self) -> None:
        """A client that has closed its side alone and one that is gone look the same until something is sent: an
        interim answer, which the one skips and the other's system rejects."""
        if not self._awaits_answer():
            return
        interim = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
        self.transport.write(self.conn.send(interim) or b"")
        self._look_for_rejection()

    def _look_for_rejection(self) -> None:
        if not self._awaits_answer():
            return
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
        else:
            self.loop.call_later(ASK_EVERY_S, self._look_for_rejection)

    def _awaits_answer(self) -> bool:
        return not self.transport.is_closing() and self._phase is Phase.ANSWERING and not self.cycle.response_started
