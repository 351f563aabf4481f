"""What stands between the connection and an endpoint: the body's limit, and the end of work nobody waits for."""

import asyncio
from collections.abc import Awaitable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.server.errors import ApiError
from octavo.server.request_context import RequestContext, context_of


class Connection:
    """Reads a request's body, no more of it than allowed, then runs the endpoint for as long as the client is there.

    A client that goes away cancels the endpoint wherever it is: waiting for a tokenizer, the engine or the network.

    Args:
        app: what requests go on to.
        max_body_bytes: the body's limit, kept while reading, whatever its length was said to be.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            _check_content_type(Headers(scope=scope))
            body = await self._read_body(scope, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is not None:
            await _while_connected(self._app(scope, _replaying(body), send), receive, context_of(scope))

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client left before its end.

        Raises:
            ApiError: it is over the limit.
        """
        announced = Headers(scope=scope).get("content-length", "")
        self._check_size(int(announced) if announced.isdecimal() else 0)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check_size(len(body))
            if not message.get("more_body", False):
                return bytes(body)

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._max_body_bytes:
            raise ApiError(
                413, f"the body is over {self._max_body_bytes} bytes: raise --max-body-bytes", code="body_too_large"
            )


def _check_content_type(headers: Headers) -> None:
    """A web page can send other types to a local server without asking it first (CORS); JSON it cannot."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, f"send the body as Content-Type: application/json, not {kind or 'none'}", code="unsupported_media_type"
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
