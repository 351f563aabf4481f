"""Runs a command of Octavo's in this process, where torch is loaded already, with streams of its own."""

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from octavo.cli.main import main


def octavo(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What a process of `octavo` would have ended with, printed and complained of."""
    out, err, given = io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(stdin.encode()))
    with redirect_stdout(out), redirect_stderr(err), patch("sys.stdin", given):
        try:
            status = main(arguments)
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
