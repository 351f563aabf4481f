"""What lets several threads use one thing in turns, and keeps Ctrl-C out of the middle of a turn."""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Iterator
from types import FrameType


class Turns:
    """A lock that threads get in the order in which they ask: none waits for more than one turn of each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[int] = deque()

    @property
    def is_mine(self) -> bool:
        """Whether it is the calling thread's turn."""
        with self._changed:
            return bool(self._queue) and self._queue[0] == threading.get_ident()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for this thread's turn, which lasts as long as the context. A turn has no turn within it."""
        own = threading.get_ident()
        with uninterrupted():
            with self._changed:
                self._queue.append(own)
                try:
                    self._changed.wait_for(lambda: self._queue[0] == own)
                except BaseException:
                    self._queue.remove(own)
                    self._changed.notify_all()
                    raise
            try:
                yield
            finally:
                with self._changed:
                    self._queue.popleft()
                    self._changed.notify_all()

    def stop(self) -> None:
        """Wait for this thread's turn and keep it: whoever waits or asks from now on waits for ever."""
        own = threading.get_ident()
        with self._changed:
            self._queue.append(own)
            self._changed.wait_for(lambda: self._queue[0] == own)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the context is left; a second one is not held back. Python interrupts the main thread
    only."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            handler(number, frame)
        held.append((number, frame))

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])
