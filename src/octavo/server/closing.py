"""Closing a connection whose client is still sending."""

import asyncio
from collections.abc import Callable
from typing import Any


class GracefulTransport:
    """A transport that does not close on a client that is still sending: that would reset the connection, and lose the
    answer that the client has not read yet. Instead the answer's end is sent, and what comes is to be thrown away until
    the client ends too.

    Args:
        transport: all else is as with this one.
        client_sends: whether the client has begun something that it has not finished.
    """

    def __init__(self, transport: asyncio.Transport, client_sends: Callable[[], bool]) -> None:
        self._transport = transport
        self._client_sends = client_sends
        self.lingers = False
        """Closed but for what still comes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close, at once or when the client ends."""
        if self._client_sends():
            self.linger()
        else:
            self._transport.close()

    def linger(self) -> None:
        """Close when the client ends."""
        if self.is_closing():
            return
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
