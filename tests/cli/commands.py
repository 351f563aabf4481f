"""Runs a command of Octavo's in this process, where torch is loaded already, with streams of its own."""

import io
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from unittest.mock import patch

from octavo.cli.main import main


def octavo(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What a process of `octavo` would have ended with, printed and complained of."""
    out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with redirect_stdout(out), redirect_stderr(err), patch("sys.stdin", given), own_signals():
        try:
            status = main(arguments)
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@contextmanager
def own_signals() -> Iterator[None]:
    """A command may say what signals do to its process; this process goes on after it."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
