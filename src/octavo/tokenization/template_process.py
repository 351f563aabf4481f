"""The process in which chat templates run: it takes conversations from its standard input, a socket, and answers.

The kernel ends it when a template takes too much processor time, or when the process that started it ends, and bounds
its memory. So nothing that a template does is felt elsewhere.
"""

import ctypes
import json
import resource
import signal
import sys
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from octavo.errors import RequestError
from octavo.tokenization.chat_template import ChatTemplate
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.spelled_tokens import SpellingBreaker

MAX_MEMORY_BYTES = 512 * 2**20
"""Of the process's address space."""
RENDER_TIME_S = 0.5
RENDER_TIME_S_PER_BYTE = 0.5 / 2**20
"""Processor time for a conversation: so much, and more for a long one."""
MAX_CHARACTERS = 2**20
MAX_CHARACTERS_PER_BYTE = 4
"""Of a prompt: so many, and more for a long conversation."""
NUM_TEMPLATES = 8
"""Compiled templates that are kept."""
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer until the other end closes: `{"text", "separator"}`, or `{"error"}`."""
    _bound_process()
    connection = Connection(sys.stdin.fileno())
    templates = _Templates(json.loads(connection.recv_bytes()))
    while True:
        try:
            asked = connection.recv_bytes()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_PROF, RENDER_TIME_S + RENDER_TIME_S_PER_BYTE * len(asked))
        answer = json.dumps(templates.answer(asked)).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(answer)


class _Templates:
    """Templates and what all of them are given.

    Args:
        settings: `special_tokens`, `content_format` and `spellings`, those that messages must not write.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        breaker = SpellingBreaker(settings["spellings"])
        special_tokens, content_format = settings["special_tokens"], settings["content_format"]
        self._compiled = lru_cache(NUM_TEMPLATES)(
            lambda source: ChatTemplate(source, special_tokens, content_format, breaker)
        )

    def answer(self, asked: bytes) -> dict[str, Any]:
        """What is sent back for a conversation."""
        try:
            conversation = Conversation(**json.loads(asked))
            limit = MAX_CHARACTERS + MAX_CHARACTERS_PER_BYTE * len(asked)
            return self._compiled(conversation.chat_template).render(conversation, limit)._asdict()
        except RequestError as error:
            return {"error": str(error)}
        except RecursionError:
            return {"error": "the messages are nested too deeply"}
        except MemoryError:
            return {"error": "the chat template takes too much memory for these messages"}


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


if __name__ == "__main__":
    main()
