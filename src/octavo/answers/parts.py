"""The parts that an answer is made of, in the order in which it brings them."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of what the user is told."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model calls a tool: its arguments follow."""

    index: int
    """Counts an answer's calls from 0."""
    name: str
    id: str | None = None
    """Where the model gives calls ids of its own."""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments. Joined, a call's pieces are an object's text, as far as the model
    wrote one."""

    index: int
    text: str


Part = Text | Reasoning | CallStart | CallArguments


@dataclass(slots=True)
class Call:
    """A call of a tool."""

    name: str
    id: str | None = None
    arguments: str = ""
    """JSON text; what an answer that was cut short has of it."""


@dataclass(slots=True)
class Answer:
    """The parts of an answer, joined: the same whether they came one by one or at once."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    def add(self, parts: Iterable[Part]) -> None:
        """Join what comes next. Calls begin in order of their index."""
        for part in parts:
            match part:
                case Text(text):
                    self.text += text
                case Reasoning(text):
                    self.reasoning += text
                case CallStart(_, name, call_id):
                    self.calls.append(Call(name, call_id))
                case CallArguments(index, text):
                    self.calls[index].arguments += text
