"""A process that does what a stranger asks, within bounds: it takes questions from its standard input, a socket, and
answers them.

The kernel ends it when a question takes too much processor time, or when the process that started it ends, and bounds
its memory. So nothing that a question does is felt elsewhere.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

MAX_MEMORY_BYTES = 512 * 2**20
"""Of the process's address space."""
_PR_SET_PDEATHSIG = 1

Answer = Callable[[bytes], bytes]
"""From a question to its answer."""


def serve(begin: Callable[[bytes], Answer], time_s: Callable[[bytes], float], niceness: int = 0) -> None:
    """Answer until the other end closes.

    Args:
        begin: is given the first message, which asks nothing, and says how the others are answered.
        time_s: processor time that a question may take.
        niceness: how far behind other processes this one stands where processors are short.
    """
    _bound_process()
    os.nice(niceness)
    connection = Connection(sys.stdin.fileno())
    answer = begin(connection.recv_bytes())
    while True:
        try:
            asked = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_PROF, time_s(asked))
        told = answer(asked)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(told)


def _bound_process() -> None:
    """End with the parent, by nobody's signal but its own, and within bounds."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # a whole group or service gets these; the parent may still drain
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGPROF,))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
