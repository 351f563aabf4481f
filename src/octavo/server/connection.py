"""What stands between the connection and an endpoint: the body's limit, and the end of work nobody waits for."""

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.errors import ApiError
from octavo.server.request_context import RequestContext, context_of
from octavo.server.request_limits import OpenRequests


class BodyRoom:
    """The bytes of bodies that the server holds.

    Args:
        max_bytes: of one body.
        max_total_bytes: of all together.
    """

    def __init__(self, max_bytes: int, max_total_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._total_bytes = 0

    @contextlib.contextmanager
    def share(self) -> "Iterator[BodyShare]":
        """One body's part, given back at the end."""
        share = BodyShare(self)
        try:
            yield share
        finally:
            self._total_bytes -= share.num_bytes

    def check(self, num_bytes: int) -> None:
        """Refuse a body of this size.

        Raises:
            ApiError: it is over the limit of one.
        """
        if num_bytes > self._max_bytes:
            raise ApiError(
                413, f"the body is over {self._max_bytes} bytes: raise --max-body-bytes", code="body_too_large"
            )

    def take(self, num_bytes: int) -> None:
        """Hold more bytes.

        Raises:
            ApiError: there is no room for them.
        """
        if self._total_bytes + num_bytes > self._max_total_bytes:
            raise ApiError(
                429,
                f"the bodies in the server reach {self._max_total_bytes} bytes: try again later, or raise "
                "--max-total-body-bytes",
                code="queue_full",
            )
        self._total_bytes += num_bytes


class BodyShare:
    """What one body holds of the room."""

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self.num_bytes = 0

    def grow(self, num_bytes: int) -> None:
        """Hold more.

        Raises:
            ApiError: the body is over its limit, or all together are.
        """
        self._room.check(self.num_bytes + num_bytes)
        self._room.take(num_bytes)
        self.num_bytes += num_bytes


class Connection:
    """Reads a request's body, no more of it than allowed and for no longer, then runs the endpoint for as long as the
    client is there.

    A client that goes away cancels the endpoint wherever it is: waiting for a tokenizer, the engine or the network.

    Args:
        app: what requests go on to.
        room: for bodies. Its limits are kept while reading, whatever a body's length was said to be.
        receive_timeout_s: seconds that a body may take.
        open_requests: the count. A full server reads no body.
    """

    def __init__(self, app: ASGIApp, room: BodyRoom, receive_timeout_s: float, open_requests: OpenRequests) -> None:
        self._app = app
        self._room = room
        self._receive_timeout_s = receive_timeout_s
        self._open_requests = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not context_of(scope).is_work:
            await self._app(scope, receive, send)
            return
        with self._room.share() as share:
            try:
                self._open_requests.check(scope["app"].state.is_draining)
                headers = Headers(scope=scope)
                _check_content_type(headers)
                self._room.check(_announced(headers))
                body = await self._read_body(receive, share)
            except ApiError as error:
                await error.response(scope)(scope, receive, send)
                return
            if body is not None:
                await _while_connected(self._app(scope, _replaying(body), send), receive, context_of(scope))

    async def _read_body(self, receive: Receive, share: BodyShare) -> bytes | None:
        """The whole body; None where the client left before its end.

        Raises:
            ApiError: it is too large or too slow.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self._receive_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    share.grow(len(chunk))
                    body += chunk
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(
                408,
                f"the body did not arrive within {self._receive_timeout_s:g} s: send it faster, or raise "
                "--receive-timeout",
                code="request_timeout",
                headers={"connection": "close"},
            ) from None


def _announced(headers: Headers) -> int:
    """The body's length in bytes, as far as it was said; h11 has made sure that it is a number."""
    return int(headers.get("content-length", "0"))


def _check_content_type(headers: Headers) -> None:
    """A web page can send other types to a local server without asking it first (CORS); JSON it cannot.

    Raises:
        ApiError: the body is no JSON, or is packed.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"send the body as Content-Type: application/json, not {kind or 'none'}", code="unsupported_media_type"
        )
    packing = headers.get("content-encoding", "").strip().lower()
    if packing not in ("", "identity"):
        raise ApiError(
            415,
            f"Content-Encoding {packing[:100]} is not supported: send the body as it is",
            code="unsupported_media_type",
        )


def _replaying(body: bytes) -> Receive:
    """A channel that gives the body and then nothing: the end of the connection is seen here, not by the endpoint."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        return await never

    return receive


async def _while_connected(endpoint: Awaitable[None], receive: Receive, context: RequestContext) -> None:
    """Run an endpoint to its end, or until the client goes away before it has its answer."""
    answering = asyncio.ensure_future(endpoint)
    watching = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done() or context.is_answered:
            await answering
    finally:
        await _cancelled(answering)
        await _cancelled(watching)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: "asyncio.Future[None]") -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    await asyncio.wait({task})
