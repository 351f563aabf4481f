"""Calls written as Python: `[get_weather(city="Paris", days=3), get_time()]`, each turned into JSON while it comes."""

import json
import re
from collections.abc import Callable

from octavo.answers.cursor import CallSink, Cursor, NoCallError, Reading, read_list
from octavo.answers.typed_values import in_json_string

_NAME_END = re.compile(r"[^\w.\-]")
_WORD_END = re.compile(r"[^\w.+\-]")
_QUOTE_STOP = {"'": re.compile(r"['\\]"), '"': re.compile(r'["\\]')}
_ANYTHING = re.compile(r"(?!)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONSTANTS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}
MAX_DEPTH = 100
"""Lists and dicts within each other."""


ReadItem = Callable[[int], Reading[None]]
"""Reads an argument, a pair or a value that is within so many lists and dicts."""


class _MalformedError(Exception):
    """What follows is no literal: it stays in the arguments as it is written."""


class PythonCalls:
    """Reads a section's calls."""

    def __init__(self, cursor: Cursor, sink: CallSink) -> None:
        self._cursor = cursor
        self._sink = sink

    @property
    def is_within_text(self) -> bool:
        """What comes next may say anything, what closes the section, too."""
        return self._cursor.in_string

    def read(self) -> Reading[None]:
        """All calls of the section.

        Raises:
            NoCallError: what has come since the last call is none.
        """
        if (yield from self._cursor.peek_past_space()) != "[":
            raise NoCallError
        self._cursor.take()
        yield from read_list(self._cursor, self._call)

    def _call(self) -> Reading[None]:
        name = yield from self._word(_NAME_END)
        if (yield from self._cursor.peek()) != "(":
            raise NoCallError
        self._sink.start(name, None, self._cursor)
        self._cursor.take()
        self._sink.add("{")
        try:
            yield from self._items(")", self._argument)
        except _MalformedError:
            yield from self._cursor.take_runs(_ANYTHING, self._sink.add)

    def _items(self, closing: str, item: "ReadItem", depth: int = 0) -> Reading[None]:
        """What is in brackets, the first of which is consumed, with JSON's brackets; ends where the text is cut."""
        is_first = True
        while True:
            character = yield from self._cursor.peek_past_space()
            if not character:
                return
            if character == closing:
                self._cursor.take()
                self._sink.add("]" if closing == "]" else "}")
                return
            if not is_first:
                self._sink.add(", ")
            is_first = False
            yield from item(depth)
            character = yield from self._cursor.peek_past_space()
            if character == ",":
                self._cursor.take()
            elif character not in (closing, ""):
                raise _MalformedError

    def _argument(self, depth: int) -> Reading[None]:
        key = yield from self._word(_NAME_END)
        if not key or (yield from self._cursor.peek_past_space()) not in ("=", ""):
            self._sink.add(key)
            raise _MalformedError
        self._sink.add(f"{json.dumps(key)}: ")
        self._cursor.take(bool((yield from self._cursor.peek())))
        yield from self._value(depth)

    def _pair(self, depth: int) -> Reading[None]:
        quote = yield from self._cursor.peek_past_space()
        if quote not in ("'", '"'):
            raise _MalformedError
        yield from self._string(quote)
        if (yield from self._cursor.peek_past_space()) not in (":", ""):
            raise _MalformedError
        self._sink.add(": ")
        self._cursor.take(bool((yield from self._cursor.peek())))
        yield from self._value(depth)

    def _value(self, depth: int) -> Reading[None]:
        character = yield from self._cursor.peek_past_space()
        if character in ("'", '"'):
            yield from self._string(character)
        elif character in ("[", "{"):
            if depth >= MAX_DEPTH:
                raise _MalformedError
            self._cursor.take()
            self._sink.add(character)
            if character == "[":
                yield from self._items("]", self._value, depth + 1)
            else:
                yield from self._items("}", self._pair, depth + 1)
        else:
            word = yield from self._word(_WORD_END)
            self._sink.add(_CONSTANTS.get(word, word))
            if word not in _CONSTANTS and _NUMBER.fullmatch(word) is None and not self._cursor.is_ended:
                raise _MalformedError

    def _word(self, end: "re.Pattern[str]") -> Reading[str]:
        pieces: list[str] = []
        yield from self._cursor.take_runs(end, pieces.append)
        return "".join(pieces)

    def _string(self, quote: str) -> Reading[None]:
        cursor, add = self._cursor, self._sink.add
        cursor.take()
        add('"')
        cursor.in_string = True
        stop = _QUOTE_STOP[quote]
        while (character := (yield from cursor.take_runs(stop, lambda run: add(in_json_string(run))))) == "\\":
            cursor.take()
            add((yield from self._escape()))
        cursor.in_string = False
        if character:
            cursor.take()
            add('"')

    def _escape(self) -> Reading[str]:
        """An escaped character, as it is within a JSON string. An escape that Python has none for stays as written."""
        kind = yield from self._cursor.peek()
        self._cursor.take(len(kind))
        if kind not in _CODE_DIGITS or not kind:
            return in_json_string(_ESCAPES.get(kind, kind if kind in ("\\", "'", '"', "/") else "\\" + kind))
        digits = ""
        while len(digits) < _CODE_DIGITS[kind]:
            digit = yield from self._cursor.peek()
            if not digit or digit not in "0123456789abcdefABCDEF":
                return in_json_string("\\" + kind + digits)
            self._cursor.take()
            digits += digit
        code = int(digits, 16)
        if 0xD800 <= code < 0xE000:
            return f"\\u{code:04x}"
        return in_json_string(chr(code)) if code < 0x110000 else in_json_string("\\" + kind + digits)
