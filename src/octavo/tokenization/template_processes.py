"""Chat templates run elsewhere: each conversation is rendered in a process with bounds (`template_process`)."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from octavo.bounded_processes import BoundedProcesses, LostProcessError, QuestionTimeError
from octavo.errors import RequestError
from octavo.tokenization.chat_template import REMEDY
from octavo.tokenization.conversation import Conversation
from octavo.tokenization.spelled_tokens import Rendered


class TemplateProcesses:
    """Renders conversations, and looks into templates.

    Threads may share it; so may forked processes, each of which starts its own.

    Args:
        settings: what a process is told at its start (see `template_process`).
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._processes = BoundedProcesses(
            "octavo.tokenization.template_process", lambda: json.dumps(settings).encode(), "render chat templates"
        )

    def render(self, conversation: Conversation) -> Rendered:
        """The prompt of a conversation, whose `chat_template` is set.

        Raises:
            RequestError: as `ChatTemplate`, or the template takes too long, or the messages are not what JSON can say.
            EngineError: it is closed, or no process can be started.
        """
        fields = {field.name: getattr(conversation, field.name) for field in dataclasses.fields(conversation)}
        return Rendered(**self._ask({"conversation": fields}))

    def variables(self, chat_template: str) -> frozenset[str]:
        """The names of all variables that a template may ask for.

        Raises:
            RequestError: it is not valid Jinja, or takes too long to read.
            EngineError: as `render`.
        """
        return frozenset(self._ask({"chat_template": chat_template})["variables"])

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        try:
            asked = json.dumps(question).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"messages and template variables must be what JSON can say: {error}") from error
        try:
            answer: dict[str, Any] = json.loads(self._processes.ask(asked))
        except QuestionTimeError as error:
            raise RequestError(f"the chat template takes too long to render these messages; {REMEDY}") from error
        except LostProcessError as error:
            raise RequestError(f"the chat template ended the process that rendered it ({error}); {REMEDY}") from error
        if "error" in answer:
            raise RequestError(answer["error"])
        return answer

    def close(self) -> None:
        """End all processes. What they are at fails."""
        self._processes.close()
