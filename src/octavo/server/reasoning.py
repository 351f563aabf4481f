"""How much a model is to think before it answers: what requests say of it, in the words that its chat template and its
rows know."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from octavo.answers.answer_format import AnswerFormat
from octavo.server.errors import ApiError
from octavo.server.openai.foreign_fields import unsupported

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates turn thinking on and off."""
EFFORT = "reasoning_effort"
"""The variable by which templates tell the model how much to think, and OpenAI's field."""
NO_EFFORT = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningAsk:
    """What a request says of thinking; None leaves it to the model."""

    field: str = EFFORT
    """The field of the request that says so."""
    enabled: bool | None = None
    effort: str | None = None
    max_tokens: int | None = None
    """Of the reasoning section, which is closed then."""
    is_told_apart: bool = True
    """Reasoning is told beside the answer's text; else it is part of it, as the model wrote it."""
    is_told: bool = True
    """Reasoning is told at all."""

    @property
    def is_off(self) -> bool:
        """The model is not to think."""
        return self.enabled is False or self.effort == NO_EFFORT

    @property
    def is_wanted(self) -> bool:
        """The request asks for something that only a model that thinks can do."""
        return not self.is_off and (self.enabled is True or self.effort is not None)

    def budget(self, known: Collection[str]) -> int | None:
        """Tokens that the reasoning section may have. Where a template cannot turn thinking off it is none.

        Args:
            known: the variables that the chat template knows.
        """
        if self.is_off and not self._is_switched(known):
            return 0
        return self.max_tokens

    def variables(self, known: Collection[str], answer_format: AnswerFormat) -> dict[str, Any]:
        """The template's variables that carry this out.

        Args:
            known: as `budget`.

        Raises:
            ApiError: the model does not think.
        """
        if self.is_wanted and answer_format.reasoning_end is None and not self._is_switched(known):
            raise unsupported(self.field, "this model does not think before it answers, leave it out")
        variables: dict[str, Any] = {}
        if self.is_off or self.is_wanted:
            variables = {name: not self.is_off for name in SWITCHES if name in known}
        if self.effort is not None and EFFORT in known and (not self.is_off or not variables):
            variables[EFFORT] = self.effort
        return variables

    @staticmethod
    def _is_switched(known: Collection[str]) -> bool:
        return any(name in known for name in (*SWITCHES, EFFORT))


def one_ask(asked: dict[str, ReasoningAsk]) -> ReasoningAsk:
    """What the fields of one request ask together.

    Args:
        asked: by field, those that were given.

    Raises:
        ApiError: two of them do not agree.
    """
    joined: dict[str, Any] = {}
    said_by: dict[str, str] = {}
    for field, ask in asked.items():
        for name in ("enabled", "effort", "max_tokens"):
            value = getattr(ask, name)
            if value is None:
                continue
            if joined.setdefault(name, value) != value:
                raise ApiError(400, f"{said_by[name]} and {field} ask for different reasoning: send one", param=field)
            said_by.setdefault(name, field)
        for name in ("is_told_apart", "is_told"):
            joined[name] = joined.get(name, True) and getattr(ask, name)
    both = ReasoningAsk(field=next(iter(asked), EFFORT), **joined)
    if both.enabled is not None and both.effort is not None and both.enabled == (both.effort == NO_EFFORT):
        field = said_by["effort"]
        raise ApiError(400, f"{said_by['enabled']} and {field} ask for different reasoning: send one", param=field)
    return both
