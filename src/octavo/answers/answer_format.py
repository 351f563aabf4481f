"""How a model writes its answers: what an endpoint needs to know of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from octavo.answers.parts import Part
from octavo.answers.tools import ToolUse


class AnswerReader(Protocol):
    """Takes one answer apart while it comes. How its text was cut into pieces changes no part's joined text."""

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer is inside a reasoning section now; at first, whether the prompt has opened one."""
        ...

    def push(self, text: str) -> Sequence[Part]:
        """The next piece of the answer's text, with its markers. What could begin a marker is held back.

        What looks like a call and is none, as its name or its form is wrong, comes as text.
        """
        ...

    def finish(self) -> Sequence[Part]:
        """No more text is coming: what was held back."""
        ...


class AnswerFormat(Protocol):
    """How a model marks reasoning and calls of tools in its answers."""

    @property
    def name(self) -> str:
        """As `--tool-parser` has it."""
        ...

    @property
    def markers(self) -> frozenset[str]:
        """Texts that readers look for. Special tokens that are part of one have to stay in an answer's text."""
        ...

    @property
    def reasoning_opening(self) -> str | None:
        """What opens a reasoning section; None where the model has none."""
        ...

    @property
    def reasoning_end(self) -> str | None:
        """What ends a reasoning section; None where the model has none."""
        ...

    def reader(self, prompt: str, use: ToolUse, *, reads_reasoning: bool = True) -> AnswerReader:
        """Of one answer.

        Args:
            prompt: its end may have begun the answer: opened a reasoning section, for one.
            use: calls are looked for where tools may be called.
            reads_reasoning: reasoning is told apart; else it is text, markers and all.
        """
        ...

    def answer_grammar(self, use: ToolUse, text: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What an answer must conform to, from behind its reasoning on, as a format of a structural tag (xgrammar's
        form, see `sampling.structural_tags`): calls of tools, where one must be called; else text, or calls where tools
        may be called and either text or calls are held to something. None where nothing is.

        Args:
            text: what text for the user conforms to, as such a format; None where it may be any.

        Raises:
            RequestError: calls cannot be held to a grammar in this format.
        """
        ...
