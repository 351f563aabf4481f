"""Calls whose arguments are tagged one by one: `<parameter=city>Paris</parameter>`.

Strings are passed on while they come, other values when they are whole: the tool's schema says what they are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from octavo.answers.cursor import CallSink, Cursor, Reading
from octavo.answers.delimiters import Delimiter
from octavo.answers.scanner import Found, PatternTime, Scanner, Stretch
from octavo.answers.typed_values import as_json, in_json_string, is_text, types_of

_VALUE = "(?P<value>.*?)"
_ANY_TYPE = ("null", "boolean", "number", "object", "array")


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands in front of a value, its key within, and what ends it."""

    before: Scanner
    behind: Scanner
    is_json: bool
    """Values are JSON where they can be read as such and the schema does not say that they are strings."""

    @classmethod
    def of(cls, content_args: Mapping[str, Any]) -> "Tags | None":
        """From the arguments of `xml-inline`; None where they are of no form that can be read while it comes."""
        pattern, parser = content_args.get("tag_pattern"), content_args.get("value_parser") or {"name": "text"}
        if not isinstance(pattern, str) or content_args.get("merge_duplicates") or not isinstance(parser, Mapping):
            return None
        before, value, behind = pattern.partition(_VALUE)
        arguments = parser.get("args") or {}
        is_json = parser.get("name") == "json" and arguments == {"allow_non_json": True}
        is_plain = parser.get("name") == "text"
        if not value or not behind or "(?P<key>" not in before or not (is_json or is_plain):
            return None
        try:
            return cls(Scanner([Delimiter.of_pattern(before)]), Scanner([Delimiter.of_pattern(behind)]), is_json)
        except ValueError:
            return None


class TaggedCall:
    """Reads a section's call, whose name the opening delimiter has.

    Args:
        spent: the time that the answer's patterns have taken.
    """

    def __init__(
        self, cursor: Cursor, sink: CallSink, tags: Tags, name: str, call_id: str | None, spent: PatternTime
    ) -> None:
        self._cursor = cursor
        self._sink = sink
        self._tags = tags
        self._name = name
        self._id = call_id
        self._held = Stretch(spent)

    @property
    def is_within_text(self) -> bool:
        """What comes next may say anything, what closes the section, too."""
        return self._cursor.in_string and not self._held.would_find(self._tags.behind)

    def read(self) -> Reading[None]:
        """The call.

        Raises:
            NoCallError: there is no such tool.
        """
        tool = self._sink.start(self._name, self._id, self._cursor)
        num_values = 0
        while (tag := (yield from self._next(self._tags.before, _ignore))) is not None:
            key = tag.captures.get("key", "")
            self._sink.add(("{" if not num_values else ", ") + json.dumps(key, ensure_ascii=False) + ": ")
            num_values += 1
            self._cursor.in_string = True
            yield from self._value(types_of(tool, key))
            self._cursor.in_string = False
        if not self._cursor.is_cut:
            self._sink.add("}" if num_values else "{}")

    def _value(self, types: tuple[str, ...]) -> Reading[None]:
        is_known = bool(types) or not self._tags.is_json
        if is_known and is_text(types):
            self._sink.add('"')
            if (yield from self._next(self._tags.behind, lambda run: self._sink.add(in_json_string(run)))) is not None:
                self._sink.add('"')
            return
        pieces: list[str] = []
        is_whole = (yield from self._next(self._tags.behind, pieces.append)) is not None
        text = "".join(pieces)
        self._sink.add(text if not is_whole else as_json(text, types or _ANY_TYPE))

    def _next(self, scanner: Scanner, to: Callable[[str], None]) -> Reading[Found | None]:
        """Hand on all text up to a delimiter; returns that, or None at the end."""
        while True:
            found = self._held.find(scanner, self._cursor.is_ended)
            to(self._held.take_until(self._held.clear_up_to if found is None else found.start))
            if found is not None and found.end > found.start:
                self._held.go_on(found.end)
                return found
            if not self._held.is_searched:
                continue
            if not (yield from self._cursor.peek()):
                return None
            self._held.feed(self._cursor.take_rest())


def _ignore(text: str) -> None:
    """Takes what stands between the tags."""
