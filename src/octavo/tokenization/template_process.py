"""The process in which chat templates run: it takes conversations, or templates alone, and answers, within the bounds
of `bounded_process`."""

import json
from functools import lru_cache
from typing import Any

from octavo import bounded_process
from octavo.errors import RequestError
from octavo.tokenization.chat_template import ChatTemplate
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.spelled_tokens import SpellingBreaker

RENDER_TIME_S = 0.5
RENDER_TIME_S_PER_BYTE = 0.5 / 2**20
"""Processor time for a conversation: so much, and more for a long one."""
MAX_CHARACTERS = 2**20
MAX_CHARACTERS_PER_BYTE = 4
"""Of a prompt: so many, and more for a long conversation."""
NUM_TEMPLATES = 8
"""Compiled templates that are kept."""


def main() -> None:
    """Answer until the other end closes: `{"text", "separator"}` to `{"conversation"}`, `{"variables"}` to
    `{"chat_template"}`, or `{"error"}`."""
    bounded_process.serve(
        lambda settings: _Templates(json.loads(settings)).answer,
        lambda asked: RENDER_TIME_S + RENDER_TIME_S_PER_BYTE * len(asked),
    )


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

    def answer(self, asked: bytes) -> bytes:
        """What is sent back."""
        return json.dumps(self._told(asked)).encode()

    def _told(self, asked: bytes) -> dict[str, Any]:
        try:
            question = json.loads(asked)
            if "chat_template" in question:
                return {"variables": sorted(self._compiled(question["chat_template"]).variables)}
            conversation = Conversation(**question["conversation"])
            limit = MAX_CHARACTERS + MAX_CHARACTERS_PER_BYTE * len(asked)
            return self._compiled(conversation.chat_template).render(conversation, limit)._asdict()
        except RequestError as error:
            return {"error": str(error)}
        except RecursionError:
            return {"error": "the messages are nested too deeply"}
        except MemoryError:
            return {"error": "the chat template takes too much memory for these messages"}


if __name__ == "__main__":
    main()
