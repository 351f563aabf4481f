"""What strangers ask is worked out elsewhere: in a few processes (`bounded_process`) that are started when they are
needed, and ended when one hangs."""

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing.connection import Pipe

from octavo.errors import EngineError

NUM_PROCESSES = 2
"""At once: while one is lost to a question, the other goes on."""
PATIENCE_S = 10.0
"""How long an answer may take. The process's own limit is of processor time: this one is for a stopped process."""


class QuestionTimeError(Exception):
    """A question has taken more processor time than it may."""


class LostProcessError(Exception):
    """A question has ended the process that worked on it.

    Args:
        status: the process's.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class BoundedProcesses:
    """Answers questions. Threads may share it; so may forked processes, each of which starts its own.

    Args:
        module: what the processes run; it calls `bounded_process.serve`.
        greeting: makes the first message of each.
        purpose: what an error says that they do, "render chat templates".
    """

    def __init__(self, module: str, greeting: Callable[[], bytes], purpose: str) -> None:
        self._module = module
        self._greeting = greeting
        self._purpose = purpose
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._closed = threading.Event()
        self._idle: list[_Process] = []
        self._running: set[_Process] = set()
        self._places = threading.BoundedSemaphore(NUM_PROCESSES)
        weakref.finalize(self, _end_all, self._running, self._owner)

    def ask(self, asked: bytes) -> bytes:
        """The answer to a question.

        Raises:
            QuestionTimeError: it takes too long.
            LostProcessError: it has ended the process.
            EngineError: this is closed, or no process can be started.
        """
        if self._owner != os.getpid():
            self._begin()
        with self._places:
            return self._answer(asked)

    def close(self) -> None:
        """End all processes. What they are at fails."""
        self._closed.set()
        _end_all(self._running, self._owner)

    def _answer(self, asked: bytes) -> bytes:
        """One process's, and another's where the first has been ended from outside.

        The system ends a process with the thread that has started it, too.
        """
        status = 0
        for _ in range(2):
            process = self._idle.pop() if self._idle else self._start()
            answer = process.answer(asked)
            if answer is not None:
                self._idle.append(process)
                return answer
            self._running.discard(process)
            status = process.end()
            if status == -signal.SIGPROF:
                raise QuestionTimeError
            if status != -signal.SIGKILL:
                break
        raise LostProcessError(status)

    def _start(self) -> "_Process":
        if self._closed.is_set():
            raise EngineError(f"no process is there to {self._purpose} any more: this model is closed")
        process = _Process(self._module, self._greeting(), self._purpose)
        self._running.add(process)
        if self._closed.is_set():
            process.kill()  # it came between the two lines above
        return process


class _Process:
    """One process, and this end of the socket to it.

    Raises:
        EngineError: it cannot be started.
    """

    def __init__(self, module: str, greeting: bytes, purpose: str) -> None:
        self._connection, child_end = Pipe()
        # Its modules are found where this process found its own, and not in the working folder.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", module]
        try:
            self._process = subprocess.Popen(
                command, stdin=child_end.fileno(), stdout=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise EngineError(f"no process can be started to {purpose}: {error}") from error
        finally:
            child_end.close()
        self._greeting: bytes | None = greeting

    def answer(self, asked: bytes) -> bytes | None:
        """The answer to a question, None where there is none: the process has ended, or does not stir."""
        try:
            if self._greeting is not None:
                self._connection.send_bytes(self._greeting)
                self._greeting = None
            self._connection.send_bytes(asked)
            if not self._connection.poll(PATIENCE_S):
                self._process.send_signal(signal.SIGPROF)
                return None
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        """End it, whatever it is at: whoever waits for its answer gets none."""
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Its status, once it has ended: at once, if it has not by now."""
        self._connection.close()
        try:
            return self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _end_all(running: set[_Process], owner: int) -> None:
    """End processes, if they are this one's and not those of one that it was forked from."""
    if os.getpid() == owner:
        for process in list(running):
            process.kill()
