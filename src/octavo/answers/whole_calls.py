"""Calls in forms that are read when they are there as a whole: variants of JSON, lines of keys and values."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from octavo.answers.call_shape import CallShape
from octavo.answers.cursor import CallSink, Cursor, NoCallError, Reading
from octavo.answers.delimiters import Delimiter
from octavo.answers.response_template import Section
from octavo.answers.typed_values import as_json, types_of

_BARE_KEY = re.compile(r"\s*(\w+)\s*:")
_STRING = r'"(?:\\.|[^"\\])*(?:"|\\?\Z)'
"""One without an end goes on to the text's: else each quote in it would be tried as a beginning."""
_TIME_FOR_TAGS_S = 0.5


class WholeCalls:
    """Reads a section's calls at its end.

    Args:
        captures: what the section's opening delimiter says.
    """

    def __init__(self, cursor: Cursor, sink: CallSink, section: Section, captures: Mapping[str, str]) -> None:
        self._cursor = cursor
        self._sink = sink
        self._section = section
        self._captures = captures

    @property
    def is_within_text(self) -> bool:
        """What comes next may say anything, what closes the section, too."""
        return False

    def read(self) -> Reading[None]:
        """All calls of the section.

        Raises:
            NoCallError: it holds something else.
        """
        pieces: list[str] = []
        while (yield from self._cursor.peek()):
            pieces.append(self._cursor.take_rest())
        shape = self._section.shape or CallShape((), ())
        try:
            content = _read_content("".join(pieces), self._section.content, self._section.content_args or {})
            calls = shape.calls_of(content, self._captures)
        except (ValueError, TypeError, RecursionError, TimeoutError, KeyError) as error:
            raise NoCallError from error
        for name, arguments, call_id in calls:
            tool = self._sink.start(name, call_id, self._cursor)
            self._cursor.keep()
            if not isinstance(arguments, dict):
                self._sink.add(arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))
                continue
            members = (
                f"{json.dumps(key, ensure_ascii=False)}: "
                + (as_json(value, types_of(tool, key)) if isinstance(value, str) else _dumped(value))
                for key, value in arguments.items()
            )
            self._sink.add("{" + ", ".join(members) + "}")


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read_content(text: str, parser: str, args: Mapping[str, Any]) -> Any:
    """A content, as the parser of that name has it.

    Raises:
        ValueError: it is malformed.
    """
    if parser == "json":
        return _json(text, args)
    if parser == "kv-lines":
        return dict(_pairs(text, args))
    if parser == "xml-inline":
        return _tagged(text, args)
    return _plain(text, parser, args)


def _plain(text: str, parser: str, args: Mapping[str, Any]) -> Any:
    stripped = text.strip() if args.get("strip", True) else text
    kinds: dict[str, Any] = {"text": str, "int": int, "float": float, "bool": lambda t: t.lower() in ("true", "1")}
    if parser not in kinds:
        raise ValueError(f"values are not read by {parser!r}")
    return kinds[parser](stripped)


def _value(text: str, args: Mapping[str, Any]) -> Any:
    parser = args.get("value_parser")
    return text if parser is None else _read_content(text, parser.get("name", "text"), parser.get("args", {}))


def _pairs(text: str, args: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    separator = args.get("kv_sep", ":")
    for line in text.split(args.get("line_sep", "\n")):
        key, found, value = line.partition(separator)
        if found:
            yield key.strip(), _value(value.strip(), args)


def _tagged(text: str, args: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    merged: dict[str, list[Any]] = {}
    pattern = Delimiter.of_pattern(args.get("tag_pattern", "")).pattern
    for match in pattern.finditer(text, timeout=_TIME_FOR_TAGS_S):
        groups = match.groupdict()
        key, value = groups["key"], _value(groups.get("value") or "", args)
        merged.setdefault(key, []).append(value)
        several = bool(args.get("merge_duplicates")) and len(merged[key]) > 1
        out[key] = merged[key] if several else value
    return out


def _json(text: str, args: Mapping[str, Any]) -> Any:
    delimiters = args.get("string_delims") or []
    standard = "".join(_standard(text, delimiters, bool(args.get("unquoted_keys"))))
    try:
        return json.loads(standard)
    except ValueError:
        if args.get("allow_non_json"):
            return text.strip()
        raise


def _standard(text: str, delimiters: Sequence[Sequence[str]], bare_keys: bool) -> Iterator[str]:
    """A variant of JSON as JSON: strings between other delimiters quoted, keys too.

    Raises:
        ValueError: a string has no end.
    """
    openings = sorted(delimiters, key=lambda pair: len(pair[0]), reverse=True)
    stops = [re.escape(opening) for opening, _ in openings] + [_STRING] + ["[{,]"] * bare_keys
    search = re.compile("|".join(stops), re.DOTALL)
    at = 0
    while (match := search.search(text, at)) is not None:
        yield text[at : match.start()]
        at = match.end()
        closing = next((closing for opening, closing in openings if opening == match[0]), None)
        if closing is not None:
            end = text.index(closing, at)
            yield json.dumps(text[at:end], ensure_ascii=False)
            at = end + len(closing)
            continue
        yield match[0]
        if match[0] in "{," and (key := _BARE_KEY.match(text, at)) is not None:
            yield f'"{key[1]}":'
            at = key.end()
    yield text[at:]
