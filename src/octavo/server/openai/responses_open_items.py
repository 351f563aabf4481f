"""The output items of a response while they are written: each tells by events how it opens, what it gains and how it
closes."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from octavo.server.openai.answers import ContentLogprob
from octavo.server.openai.responses_events import (
    CallArgumentsDelta,
    CallArgumentsDone,
    ContentPartAdded,
    ContentPartDone,
    OutputItemAdded,
    OutputItemDone,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    ResponseEvent,
)
from octavo.server.openai.responses_input import encrypted
from octavo.server.openai.responses_items import (
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
)

_PART = 0
"""The place of a message's or a reasoning's only content part."""


class OpenItem(Protocol):
    """An item that is being written."""

    @property
    def item(self) -> OutputItem:
        """As it is so far; whole once it is closed."""
        ...

    def opening(self) -> Iterator[ResponseEvent]:
        """The events before anything of it is told."""
        ...

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """The events that end it."""
        ...


class OpenMessage:
    """What the user is told.

    Args:
        numbers: of events.
        place: of the item among the response's output.
    """

    def __init__(self, numbers: Iterator[int], place: int) -> None:
        self.item = OutputMessage(new_id("msg"))
        self._numbers = numbers
        self._where = (place, self.item.id)
        self._pieces: list[str] = []
        self._logprobs: list[ContentLogprob] = []

    def opening(self) -> Iterator[ResponseEvent]:
        yield OutputItemAdded(next(self._numbers), self._where[0], msgspec.structs.replace(self.item))
        yield ContentPartAdded(next(self._numbers), *self._where, _PART, OutputText(""))

    def gain(self, text: str, logprobs: Sequence[ContentLogprob]) -> Iterator[ResponseEvent]:
        """The event of what it gains."""
        self._pieces.append(text)
        self._logprobs += logprobs
        yield OutputTextDelta(next(self._numbers), *self._where, _PART, text, list(logprobs))

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        part = OutputText("".join(self._pieces), logprobs=self._logprobs)
        self.item.content, self.item.status = [part], status
        yield OutputTextDone(next(self._numbers), *self._where, _PART, part.text, part.logprobs)
        yield ContentPartDone(next(self._numbers), *self._where, _PART, part)
        yield OutputItemDone(next(self._numbers), self._where[0], self.item)


class OpenReasoning:
    """What the model thinks.

    Args:
        numbers: of events.
        place: of the item among the response's output.
        encrypts: its text is told in `encrypted_content`, too.
    """

    def __init__(self, numbers: Iterator[int], place: int, encrypts: bool) -> None:
        self.item = OutputReasoning(new_id("rs"))
        self._numbers = numbers
        self._where = (place, self.item.id)
        self._encrypts = encrypts
        self._pieces: list[str] = []

    def opening(self) -> Iterator[ResponseEvent]:
        yield OutputItemAdded(next(self._numbers), self._where[0], msgspec.structs.replace(self.item))
        yield ContentPartAdded(next(self._numbers), *self._where, _PART, ReasoningText(""))

    def gain(self, text: str) -> Iterator[ResponseEvent]:
        """The event of what it gains."""
        self._pieces.append(text)
        yield ReasoningTextDelta(next(self._numbers), *self._where, _PART, text)

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        part = ReasoningText("".join(self._pieces))
        self.item.content, self.item.status = [part], status
        if self._encrypts:
            self.item.encrypted_content = encrypted(part.text)
        yield ReasoningTextDone(next(self._numbers), *self._where, _PART, part.text)
        yield ContentPartDone(next(self._numbers), *self._where, _PART, part)
        yield OutputItemDone(next(self._numbers), self._where[0], self.item)


class OpenCall:
    """A call of a tool.

    Args:
        numbers: of events.
        place: of the item among the response's output.
        name: the tool's.
        call_id: by which the tool's output refers to it.
    """

    def __init__(self, numbers: Iterator[int], place: int, name: str, call_id: str) -> None:
        self.item = OutputCall(new_id("fc"), call_id, name)
        self._numbers = numbers
        self._where = (place, self.item.id)
        self._pieces: list[str] = []

    def opening(self) -> Iterator[ResponseEvent]:
        yield OutputItemAdded(next(self._numbers), self._where[0], msgspec.structs.replace(self.item))

    def gain(self, text: str) -> Iterator[ResponseEvent]:
        """The event of what its arguments gain."""
        self._pieces.append(text)
        yield CallArgumentsDelta(next(self._numbers), *self._where, text)

    def closing(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        self.item.arguments, self.item.status = "".join(self._pieces), status
        yield CallArgumentsDone(next(self._numbers), *self._where, self.item.name, self.item.arguments)
        yield OutputItemDone(next(self._numbers), self._where[0], self.item)


def new_id(kind: str) -> str:
    """An id that no other item has.

    Args:
        kind: what it begins with.
    """
    return f"{kind}_{uuid.uuid4().hex}"
