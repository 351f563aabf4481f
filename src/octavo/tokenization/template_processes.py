"""Chat templates run elsewhere: a few processes that are started when they are needed, and ended when one hangs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Pipe
from typing import Any

from octavo.errors import EngineError, RequestError
from octavo.tokenization.chat_template import REMEDY
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.spelled_tokens import Rendered

NUM_PROCESSES = 2
"""At once: while one is lost to a template, the other goes on."""
PATIENCE_S = 10.0
"""How long an answer may take. The process's own limit is of processor time: this one is for a stopped process."""


class TemplateProcesses:
    """Renders conversations. Threads may share it; so may forked processes, each of which starts its own.

    Args:
        settings: what a process is told at its start (see `template_process`).
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._closed = threading.Event()
        self._idle: list[_TemplateProcess] = []
        self._running: set[_TemplateProcess] = set()
        self._places = threading.BoundedSemaphore(NUM_PROCESSES)
        weakref.finalize(self, _end_all, self._running, self._owner)

    def render(self, conversation: Conversation) -> Rendered:
        """The prompt of a conversation, whose `chat_template` is set.

        Raises:
            RequestError: as `ChatTemplate`, or the template takes too long, or the messages are not what JSON can say.
            EngineError: it is closed, or no process can be started.
        """
        if self._owner != os.getpid():
            self._begin()
        fields = {field.name: getattr(conversation, field.name) for field in dataclasses.fields(conversation)}
        try:
            asked = json.dumps(fields).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"messages and template variables must be what JSON can say: {error}") from error
        with self._places:
            answer = self._answer(asked)
        if "error" in answer:
            raise RequestError(answer["error"])
        return Rendered(**answer)

    def close(self) -> None:
        """End all processes. What they are at fails."""
        self._closed.set()
        _end_all(self._running, self._owner)

    def _answer(self, asked: bytes) -> dict[str, Any]:
        """One process's, and another's where the first has been ended from outside.

        The system ends a process with the thread that has started it, too.
        """
        for _ in range(2):
            process = self._idle.pop() if self._idle else self._start()
            answer = process.answer(asked)
            if answer is not None:
                self._idle.append(process)
                return answer
            self._running.discard(process)
            status = process.end()
            if status == -signal.SIGPROF:
                raise RequestError(f"the chat template takes too long to render these messages; {REMEDY}")
            if status != -signal.SIGKILL:
                break
        raise RequestError(f"the chat template ended the process that rendered it (status {status}); {REMEDY}")

    def _start(self) -> "_TemplateProcess":
        if self._closed.is_set():
            raise EngineError("chat templates are not rendered any more: this model is closed")
        process = _TemplateProcess(self._settings)
        self._running.add(process)
        if self._closed.is_set():
            process.kill()  # it came between the two lines above
        return process


class _TemplateProcess:
    """One process, and this end of the socket to it.

    Raises:
        EngineError: it cannot be started.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._connection, child_end = Pipe()
        # Its modules are found where this process found its own, and not in the working folder.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-P", "-m", "octavo.tokenization.template_process"]
        try:
            self._process = subprocess.Popen(
                command, stdin=child_end.fileno(), stdout=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise EngineError(f"no process can be started to render chat templates: {error}") from error
        finally:
            child_end.close()
        self._greeting: bytes | None = json.dumps(settings).encode()

    def answer(self, asked: bytes) -> dict[str, Any] | None:
        """The answer to a conversation, None where there is none: the process has ended, or does not stir."""
        try:
            if self._greeting is not None:
                self._connection.send_bytes(self._greeting)
                self._greeting = None
            self._connection.send_bytes(asked)
            if not self._connection.poll(PATIENCE_S):
                self._process.send_signal(signal.SIGPROF)
                return None
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
            return answer
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


def _end_all(running: set[_TemplateProcess], owner: int) -> None:
    """End processes, if they are this one's and not those of one that it was forked from."""
    if os.getpid() == owner:
        for process in list(running):
            process.kill()
