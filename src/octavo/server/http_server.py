"""uvicorn, set up for this server: its connections are bounded, and it ends when told."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Iterator
from typing import Any, cast

import uvicorn

from octavo.server.http_protocol import ConnectionLimits, HttpProtocol
from octavo.server.listener import BACKLOG
from octavo.server_config import ServerConfig

ACCEPTS_AT_ONCE = 8
"""Connections accepted in one turn of the loop. Those beyond --max-connections take files until they are closed, two
turns later."""
FLUSH_TIMEOUT_S = 5.0
"""Seconds for connections to take what has been written, once all requests are over."""


class HttpServer(uvicorn.Server):
    """Serves an application until it is told to stop. It handles no signals.

    Args:
        app: of ASGI.
        config: the server's own knobs.
        max_connections: from `connection_limit`.
    """

    def __init__(self, app: Any, config: ServerConfig, max_connections: int) -> None:
        limits = ConnectionLimits(
            max_connections=max_connections,
            keep_alive_s=config.keep_alive_timeout,
            receive_s=config.receive_timeout,
            send_s=config.send_timeout,
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(type[asyncio.Protocol], functools.partial(HttpProtocol, limits=limits)),
                ws="none",
                lifespan="off",
                log_level="error",  # its warnings tell of clients that speak no HTTP: as many as they like
                access_log=False,
                backlog=ACCEPTS_AT_ONCE,
                timeout_keep_alive=int(config.keep_alive_timeout) + 1,  # `HttpProtocol` is there first
            )
        )

    def stop(self, *, force: bool) -> None:
        """End: idle connections at once, the others with their answers, or (force) at once."""
        self.should_exit = True
        if force:
            self._abort_all()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains, and that is `lifecycle`'s."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # uvicorn's one number is also how many are accepted at once

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, and wait until connections and requests have ended."""
        flushing = asyncio.get_running_loop().call_later(FLUSH_TIMEOUT_S, self._abort_all)
        try:
            await super().shutdown(sockets)
        finally:
            flushing.cancel()

    def _abort_all(self) -> None:
        for connection in list(self.server_state.connections):
            cast(HttpProtocol, connection).abort()
