"""Processes that end with the one that started them, however that ends and whatever they are doing."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def start(module: str, arguments: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start `python -m module` in a session of its own, so that Ctrl-C is for this process alone. It is to call `hold`
    first of all, and gets no other standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, pass_fds=pass_fds, start_new_session=True
    )


def hold() -> None:
    """End this process once the one that has started it is gone: it alone has the other end of standard input. Signals
    that ask for an end are that one's to hear, even where they are sent to all processes of a service.

    On Linux the kernel sends SIGKILL, so it needs neither the interpreter's lock nor that this process runs at all.
    Elsewhere a thread waits.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lifeline = sys.stdin.fileno()
    if sys.platform == "linux":
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | fcntl.FASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # gone before that
            os._exit(1)
    else:
        threading.Thread(target=_end_at_eof, args=(lifeline,), daemon=True).start()


def _end_at_eof(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)
