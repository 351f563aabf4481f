"""Messages over a pair of connected sockets: what the front and the engine speak through. There is no name that others
could find, and nothing to remove, however either side ends."""

import socket
from collections import deque
from collections.abc import Iterator

HEADER_BYTES = 4
"""Each message comes behind its length."""
MOST_AT_ONCE = 2**20
"""Bytes that are read at once."""


def framed(message: bytes) -> bytes:
    """A message as it goes over the wire."""
    return len(message).to_bytes(HEADER_BYTES, "little") + message


class Unframer:
    """Cuts what comes into messages."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def messages(self, received: bytes) -> Iterator[bytes]:
        """The messages that are whole now."""
        pending = self._pending
        pending += received
        start = 0
        while len(pending) - start >= HEADER_BYTES:
            first = start + HEADER_BYTES
            end = first + int.from_bytes(pending[start:first], "little")
            if end > len(pending):
                break
            yield bytes(pending[first:end])
            start = end
        del pending[:start]


class Channel:
    """One end of the pair. Nothing here waits: what the other side does not take yet is kept, in order."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unframer = Unframer()
        self._unsent: deque[memoryview] = deque()

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def is_behind(self) -> bool:
        """Whether something is to be sent as soon as the socket takes more: `flush` then."""
        return bool(self._unsent)

    def send(self, message: bytes) -> None:
        """Send a message, or keep it.

        Raises:
            ConnectionError: the other side is gone.
        """
        self._unsent.append(memoryview(framed(message)))
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes.

        Raises:
            ConnectionError: the other side is gone.
        """
        try:
            while self._unsent:
                sent = self._end.send(self._unsent[0])
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            return

    def flush_all(self, timeout_s: float) -> None:
        """Send everything before this process ends, waiting no longer than this for the other side.

        Raises:
            OSError: the other side is gone, or takes nothing.
        """
        self._end.settimeout(timeout_s)
        while self._unsent:
            self._end.sendall(self._unsent.popleft())

    def received(self) -> Iterator[bytes]:
        """The messages that have come.

        Raises:
            EOFError: the other side is gone.
        """
        while True:
            try:
                read = self._end.recv(MOST_AT_ONCE)
            except BlockingIOError:
                return
            except ConnectionError as error:
                raise EOFError from error
            if not read:
                raise EOFError
            yield from self._unframer.messages(read)
