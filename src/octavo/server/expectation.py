"""Clients that wait to be told to send a body (`Expect: 100-continue`)."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Expectation:
    """Closes the connection where a client is answered without having been told to send: it may then send its next
    request, which would be taken for the body.

    Args:
        app: what requests go on to; the first that it receives of a body tells the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or Headers(scope=scope).get("expect", "").lower() != "100-continue":
            await self._app(scope, receive, send)
            return
        is_told = False

        async def telling() -> Message:
            nonlocal is_told
            is_told = True
            return await receive()

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_told:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, telling, closing)
