"""The signals that ask a server to end, and its hard end: nothing that still runs may keep the process."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def end_signals() -> list[signal.Signals]:
    """TERM, INT and HUP; HUP not where it is ignored, as under nohup."""
    asking = [signal.SIGTERM, signal.SIGINT]
    return asking if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*asking, signal.SIGHUP]


def end_at_once_on_signals() -> None:
    """Until something else handles them, signals end the process as it is: before it serves and after it has served
    there is nothing to drain. Process 1 of a container needs that said, as the system gives it no default."""
    for number in end_signals():
        signal.signal(number, _ended)


def leave(status: int) -> NoReturn:
    """End the process without waiting for its threads: one may compute for long what nobody waits for any more."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(status)


def _ended(number: int, _: FrameType | None) -> NoReturn:
    os.write(2, f"octavo: ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)
