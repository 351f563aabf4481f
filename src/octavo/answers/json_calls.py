"""Calls written as JSON: `{"name": …, "arguments": {…}}`, a list of these, or the arguments alone.

The text of the arguments is passed on as the model wrote it, while it comes. Only their strings and brackets are
followed: whether they are valid JSON is the client's to see, as it is of OpenAI's models.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from octavo.answers.call_shape import CallShape
from octavo.answers.cursor import CallSink, Cursor, NoCallError, Reading, read_list

_STRING_STOP = re.compile(r'["\\]')
_STRUCTURE = re.compile(r'["{}\[\]]')
_SCALAR_END = re.compile(r"[,}\]\s]")
_ESCAPE = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(slots=True)
class _Call:
    """What is known of a call. Arguments that come before its name wait."""

    name: str | None = None
    id: str | None = None
    waiting: list[str] = field(default_factory=list)
    has_arguments: bool = False


class JsonCalls:
    """Reads a section's calls.

    Args:
        shape: under which keys they are.
        name: where the opening delimiter has it.
        call_id: likewise.
        knows_all_keys: an object with another key is no call; for formats that do not mark their calls.
    """

    def __init__(
        self,
        cursor: Cursor,
        sink: CallSink,
        shape: CallShape,
        name: str | None,
        call_id: str | None,
        knows_all_keys: bool = False,
    ) -> None:
        self._cursor = cursor
        self._sink = sink
        self._shape = shape
        self._name = name
        self._id = call_id
        self._known_keys = {"type", "id", shape.name_key, *shape.argument_keys} if knows_all_keys else None

    @property
    def is_within_text(self) -> bool:
        """What comes next may say anything, what closes the section, too."""
        return self._cursor.in_string

    def read(self) -> Reading[None]:
        """All calls of the section.

        Raises:
            NoCallError: what has come since the last call is none.
        """
        first = yield from self._cursor.peek_past_space()
        if not self._shape.argument_keys:
            yield from self._bare_arguments(first)
        elif first == "[":
            self._cursor.take()
            yield from read_list(self._cursor, self._object)
        else:
            yield from self._object()

    def _bare_arguments(self, first: str) -> Reading[None]:
        if first not in ("{", '"', ""):
            raise NoCallError
        self._sink.start(self._name or "", self._id, self._cursor)
        if first:
            yield from self._arguments(self._sink.add)
        if not self._sink.has_arguments and not self._cursor.is_cut:
            self._sink.add("{}")

    def _object(self) -> Reading[None]:
        cursor, call = self._cursor, _Call(self._name, self._id)
        yield from self._expect("{")
        while True:
            character = yield from cursor.peek_past_space()
            if character == "}":
                break
            yield from self._member(call)
            character = yield from cursor.peek_past_space()
            if character == ",":
                cursor.take()
            elif character != "}":
                break
        if call.name is None:
            raise NoCallError
        if character == "}":
            cursor.take()
            if not self._sink.has_arguments:
                self._sink.add("{}")

    def _member(self, call: _Call) -> Reading[None]:
        key = yield from self._string()
        yield from self._expect(":")
        yield from self._cursor.peek_past_space()
        if self._known_keys is not None and key not in self._known_keys:
            raise NoCallError
        if key == self._shape.name_key and call.name is None:
            name = yield from self._string()
            self._sink.start(name, call.id, self._cursor)
            call.name = name
            for piece in call.waiting:
                self._sink.add(piece)
            call.waiting.clear()
        elif key in self._shape.argument_keys and not call.has_arguments:
            call.has_arguments = True
            yield from self._arguments(call.waiting.append if call.name is None else self._sink.add)
        elif key == self._shape.id_key and (yield from self._cursor.peek()) == '"':
            call.id = yield from self._string()
        else:
            yield from self._value(_nowhere)

    def _arguments(self, to: Callable[[str], None]) -> Reading[None]:
        """An object's text, or that in a string; none for null."""
        if (yield from self._cursor.peek()) == '"':
            yield from self._unwrapped(to)
            return
        if (yield from self._cursor.peek()) != "n":
            yield from self._value(to)
            return
        word: list[str] = []
        yield from self._value(word.append)
        if (text := "".join(word)) != "null":
            to(text)

    def _expect(self, character: str) -> Reading[None]:
        if (yield from self._cursor.peek_past_space()) != character:
            raise NoCallError
        self._cursor.take()

    def _value(self, to: Callable[[str], None]) -> Reading[None]:
        """Pass a value's text on."""
        depth = 0
        while True:
            character = yield from self._cursor.peek()
            if not character:
                return
            if character == '"':
                yield from self._raw_string(to)
            elif character in "{}[]":
                depth += 1 if character in "{[" else -1
                if depth < 0:
                    return
                self._cursor.take()
                to(character)
            elif depth:
                yield from self._cursor.take_runs(_STRUCTURE, to)
            else:
                yield from self._cursor.take_runs(_SCALAR_END, to)
                return
            if not depth:
                return

    def _raw_string(self, to: Callable[[str], None]) -> Reading[None]:
        """Pass a string on, quotes and escapes and all."""
        cursor = self._cursor
        cursor.take()
        to('"')
        cursor.in_string = True
        while (character := (yield from cursor.take_runs(_STRING_STOP, to))) == "\\":
            cursor.take()
            escape = yield from cursor.peek()
            cursor.take(len(escape))
            to(character + escape)
        cursor.in_string = False
        if character:
            cursor.take()
            to('"')

    def _string(self) -> Reading[str]:
        """The text of a string that must be one.

        Raises:
            NoCallError: it is none, or cut short.
        """
        if (yield from self._cursor.peek_past_space()) != '"':
            raise NoCallError
        pieces: list[str] = []
        yield from self._raw_string(pieces.append)
        try:
            text = json.loads("".join(pieces), strict=False)
        except ValueError as error:
            raise NoCallError from error
        return str(text)

    def _unwrapped(self, to: Callable[[str], None]) -> Reading[None]:
        """Pass on what a string holds. Escapes that are none stay as they are written."""
        cursor = self._cursor
        cursor.take()
        cursor.in_string = True
        while (character := (yield from cursor.take_runs(_STRING_STOP, to))) == "\\":
            cursor.take()
            to((yield from self._escaped_character()))
        cursor.in_string = False
        cursor.take(len(character))

    def _escaped_character(self) -> Reading[str]:
        kind = yield from self._cursor.peek()
        self._cursor.take(len(kind))
        if kind != "u":
            return _ESCAPE.get(kind, "\\" + kind)
        digits = ""
        while len(digits) < 4 and (digit := (yield from self._cursor.peek())) in "0123456789abcdefABCDEF" and digit:
            self._cursor.take()
            digits += digit
        if len(digits) < 4 or 0xD800 <= int(digits, 16) < 0xE000:
            return "\\u" + digits  # half of a pair says the same as an escape in the JSON that it is within
        return chr(int(digits, 16))


def _nowhere(text: str) -> None:
    """Takes what nobody wants."""
