"""A place in a section's text while it arrives, and where the calls that are read from it go.

Readers of calls are generators over a cursor: they yield when they need more text. What they have consumed since the
last call can be given back as text, in case it turns out to be none.
"""

import re
from collections.abc import Callable, Generator, Mapping
from typing import TypeVar

from octavo.answers.parts import CallArguments, CallStart, Part
from octavo.answers.tools import Tool

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Goes on when there is more text, and returns something in the end."""
_NO_SPACE = re.compile(r"[^ \t\r\n]")


class Cursor:
    """The text of one section.

    Args:
        opening: the delimiter that opened the section, which is text, too, if no call follows.
    """

    def __init__(self, opening: str) -> None:
        self._text = ""
        self._at = 0
        self._kept: list[str] | None = [opening]
        self._kept_from = 0
        self.is_ended = False
        """No more text is coming."""
        self.is_cut = False
        """The answer ended here, without the section's end."""
        self.in_string = False
        """The text is within something that may hold any text, the section's closing delimiter too."""

    def feed(self, text: str) -> None:
        """The next piece. All that came before has been consumed."""
        if self._kept is not None:
            self._kept.append(self._text[self._kept_from :])
        self._text, self._at, self._kept_from = text, 0, 0

    @property
    def num_left(self) -> int:
        """Characters of the last piece that have not been consumed."""
        return len(self._text) - self._at

    def keep(self) -> None:
        """From here on, keep what is consumed."""
        self._kept, self._kept_from = [], self._at

    def forget(self) -> None:
        """A call has begun: what was consumed is none of the user's text."""
        self._kept = None

    def kept(self) -> str:
        """What was consumed and may still be text."""
        return "" if self._kept is None else "".join(self._kept) + self._text[self._kept_from : self._at]

    def take(self, count: int = 1) -> None:
        """Consume characters that are there."""
        self._at += count

    def take_rest(self) -> str:
        """Consume all that is there."""
        start, self._at = self._at, len(self._text)
        return self._text[start:]

    def peek(self) -> Reading[str]:
        """The next character, or "" at the end."""
        while self._at == len(self._text):
            if self.is_ended:
                return ""
            yield
        return self._text[self._at]

    def peek_past_space(self) -> Reading[str]:
        """The next character that is no blank, with those before it consumed, or "" at the end."""
        while True:
            match = _NO_SPACE.search(self._text, self._at)
            if match is not None:
                self._at = match.start()
                return match[0]
            self._at = len(self._text)
            if self.is_ended:
                return ""
            yield

    def take_run(self, stop: "re.Pattern[str]") -> str:
        """Consume what is there up to a character that the pattern finds."""
        match = stop.search(self._text, self._at)
        start, self._at = self._at, len(self._text) if match is None else match.start()
        return self._text[start : self._at]

    def take_runs(self, stop: "re.Pattern[str]", to: Callable[[str], None]) -> Reading[str]:
        """Hand on everything up to a character that the pattern finds; returns that, not consumed, or "" at the end."""
        while True:
            if run := self.take_run(stop):
                to(run)
            character = yield from self.peek()
            if not character or stop.match(character):
                return character


class NoCallError(Exception):
    """What was read is no call."""


def read_list(cursor: Cursor, read_call: Callable[[], Reading[None]]) -> Reading[None]:
    """Calls with commas between them, up to the bracket that closes their list, or to the end of the text.

    Raises:
        NoCallError: what has come since the last call is none.
    """
    while True:
        yield from cursor.peek_past_space()
        yield from read_call()
        cursor.keep()
        character = yield from cursor.peek_past_space()
        if not character:
            return
        if character not in ",]":
            raise NoCallError
        cursor.take()
        if character == "]" or not (yield from cursor.peek_past_space()):
            return


class CallSink:
    """Takes the calls of an answer as they come, and makes parts of them.

    Args:
        tools: those that may be called, by name.
        parallel: an answer may have several calls; else only its first is passed on.
        emit: takes the parts.
    """

    def __init__(self, tools: Mapping[str, Tool], parallel: bool, emit: Callable[[Part], None]) -> None:
        self._tools = tools
        self._parallel = parallel
        self._emit = emit
        self._num_calls = 0
        self.has_arguments = False
        """The latest call has some."""

    @property
    def num_calls(self) -> int:
        """Calls that have begun."""
        return self._num_calls

    def start(self, name: str, call_id: str | None, cursor: Cursor) -> Tool:
        """A call begins.

        Raises:
            NoCallError: there is no such tool.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise NoCallError
        cursor.forget()
        self._num_calls += 1
        self.has_arguments = False
        if self._is_passed_on:
            self._emit(CallStart(self._num_calls - 1, name, call_id or None))
        return tool

    def add(self, arguments: str) -> None:
        """More of the arguments of the call that has begun last."""
        if arguments:
            self.has_arguments = True
            if self._is_passed_on:
                self._emit(CallArguments(self._num_calls - 1, arguments))

    @property
    def _is_passed_on(self) -> bool:
        return self._parallel or self._num_calls == 1
