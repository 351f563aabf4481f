"""Structural tags: free text and what is held to schemas, regexes and grammars within it, in one JSON description
(xgrammar.mlc.ai, "Structural Tag"; vLLM and SGLang take the same, and an older form with `structures`)."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llguidance.gbnf_to_lark import any_to_lark

from octavo.errors import GrammarError
from octavo.sampling.marks import NO_MARKS, Marks
from octavo.sampling.python_notation import python_arguments
from octavo.sampling.schema_rewrites import rewritten
from octavo.sampling.tag_parts import (
    NOTHING,
    Choice,
    ContextFree,
    Fixed,
    Free,
    Json,
    Part,
    Regex,
    Repeat,
    Sequence,
    flattened,
    optional,
)
from octavo.sampling.xml_notation import qwen_xml

NOTATIONS: dict[str, Callable[[dict[str, Any]], Part]] = {"qwen_xml": qwen_xml, "python": python_arguments}
"""Of JSON schemas, by their `style`. `python` is this server's own."""


def read_structural_tag(source: str, marks: Marks = NO_MARKS) -> Part:
    """What a structural tag describes.

    Args:
        source: its JSON text.

    Raises:
        GrammarError: it is malformed, or asks for something that cannot be had.
    """
    try:
        tag = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"a structural tag is JSON: {error}") from error
    if not isinstance(tag, dict):
        raise GrammarError(f"a structural tag is an object, got {type(tag).__name__}")
    reader = _Reader(marks)
    known = {"structures", "triggers"} if "structures" in tag else {"format"}
    for name, value in tag.items():
        if name not in known | {"type"} and value is not None:
            raise GrammarError(f"{name} of a structural tag is not supported: leave it out")
    if "structures" in tag:
        return reader.structures(tag)
    return reader.read(_object(tag, "format", "structural_tag"))


class _Reader:
    """Reads the formats of a structural tag, each by its type."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._formats: dict[str, tuple[Callable[[dict[str, Any]], Part], str]] = {
            "const_string": (self._const_string, "value"),
            "json_schema": (self._json_schema, "json_schema style"),
            "qwen_xml_parameter": (self._qwen_xml_parameter, "json_schema"),
            "regex": (lambda own: Regex(_text(own, "pattern")), "pattern"),
            "grammar": (_grammar, "grammar"),
            "any_text": (_free, "excludes excluded_pattern"),
            "token": (lambda own: marks.token(own.get("token")), "token"),
            "sequence": (lambda own: Sequence(self._all(own, "elements")), "elements"),
            "or": (lambda own: Choice(self._some(own, "elements")), "elements"),
            "optional": (lambda own: optional(self._content(own)), "content"),
            "plus": (lambda own: Repeat(self._content(own), 1), "content"),
            "star": (lambda own: Repeat(self._content(own)), "content"),
            "repeat": (self._repeat, "content min max"),
            "tag": (self._tag, "begin content end"),
            "triggered_tags": (
                self._triggered_tags,
                "triggers tags at_least_one stop_after_first excludes excluded_pattern",
            ),
            "token_triggered_tags": (self._token_triggered_tags, "trigger_tokens tags at_least_one stop_after_first"),
            "tags_with_separator": (self._tags_with_separator, "tags separator at_least_one stop_after_first"),
            "dispatch": (self._dispatch, "rules loop excludes"),
        }

    def read(self, own: Any) -> Part:
        kind = own.get("type") if isinstance(own, dict) else None
        if not isinstance(kind, str) or kind not in self._formats:
            raise GrammarError(f"the type of a format is one of {', '.join(self._formats)}; got {kind!r}")
        read, fields = self._formats[kind]
        for name, value in own.items():
            if name not in ("type", *fields.split()) and value not in (None, [], False):
                raise GrammarError(f"{name} of {kind} is not supported: leave it out")
        return read(own)

    def structures(self, tag: dict[str, Any]) -> Part:
        """The older form."""
        tags: list[tuple[str, Part]] = []
        for own in _list(tag, "structures"):
            begin, end = _text(own, "begin"), _text(own, "end")
            tags.append((begin, Sequence((Json(_schema(own, "schema")), self._marks.fixed(end)))))
        return self._triggered(_texts(tag, "triggers"), tags)

    def _all(self, own: dict[str, Any], name: str) -> tuple[Part, ...]:
        return tuple(map(self.read, _list(own, name)))

    def _some(self, own: dict[str, Any], name: str) -> tuple[Part, ...]:
        return self._all(own, name) or _wrong(own, name, "a list, not empty")

    def _content(self, own: dict[str, Any]) -> Part:
        return self.read(own.get("content"))

    def _const_string(self, own: dict[str, Any]) -> Part:
        return self._marks.fixed(_text(own, "value"))

    def _json_schema(self, own: dict[str, Any]) -> Part:
        style = own.get("style", "json")
        schema = _schema(own, "json_schema")
        if style == "json":
            return Json(schema)
        if style not in NOTATIONS:
            raise GrammarError(f"the style of a json_schema is one of json, {', '.join(NOTATIONS)}; got {style!r}")
        return NOTATIONS[style](rewritten(json.loads(schema)))

    def _qwen_xml_parameter(self, own: dict[str, Any]) -> Part:
        return self._json_schema({**own, "style": "qwen_xml"})

    def _repeat(self, own: dict[str, Any]) -> Part:
        least, most = _count(own, "min"), _count(own, "max")
        if least < 0 or 0 <= most < least:
            _wrong(own, "min", "at least 0 and at most max")
        return Repeat(self._content(own), least, None if most < 0 else most)

    def _tag(self, own: dict[str, Any]) -> Part:
        return Sequence((self._mark(own, "begin"), self._behind(own)))

    def _behind(self, own: dict[str, Any]) -> Part:
        """A tag without its begin."""
        return Sequence((self._content(own), self._mark(own, "end")))

    def _mark(self, own: dict[str, Any], name: str) -> Part:
        mark = own.get(name)
        if isinstance(mark, dict):
            return self.read(mark)
        closes = name == "end"
        if isinstance(mark, list) and mark and all(isinstance(each, str) for each in mark):
            return Choice(tuple(self._marks.fixed(each, closes) for each in mark))
        return self._marks.fixed(_text(own, name), closes)

    def _tags(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        tags = _list(own, "tags")
        if not tags or any(not isinstance(tag, dict) or tag.get("type", "tag") != "tag" for tag in tags):
            _wrong(own, "tags", "a list of tags, not empty")
        return tags

    def _triggered_tags(self, own: dict[str, Any]) -> Part:
        tags = [(_text(tag, "begin"), self._behind(tag)) for tag in self._tags(own)]
        return self._triggered(_texts(own, "triggers"), tags, _free(own), **_ways(own))

    def _token_triggered_tags(self, own: dict[str, Any]) -> Part:
        known = [self._marks.token(token) for token in _list(own, "trigger_tokens")]
        tags = [self._tag(tag) for tag in self._tags(own)]
        for tag in tags:
            if flattened((tag,))[:1] not in [(token,) for token in known]:
                _wrong(own, "trigger_tokens", "tokens that the tags begin with")
        return _called(Choice(tuple(tags)), Free(), **_ways(own))

    def _tags_with_separator(self, own: dict[str, Any]) -> Part:
        tag = Choice(tuple(map(self._tag, self._tags(own))))
        ways = _ways(own)
        more = Repeat(Sequence((self._marks.fixed(_text(own, "separator")), tag)))
        tags: Part = tag if ways["stop_after_first"] else Sequence((tag, more))
        return tags if ways["at_least_one"] else optional(tags)

    def _dispatch(self, own: dict[str, Any]) -> Part:
        rules = _list(own, "rules")
        if not rules or any(not isinstance(rule, list) or len(rule) != 2 for rule in rules):
            _wrong(own, "rules", "a list of pairs of a text and a format, not empty")
        tags = [(rule[0], self.read(rule[1])) for rule in rules]
        triggers = _texts({"type": "dispatch", "rules": [text for text, _ in tags]}, "rules")
        once = own.get("loop", True) is False
        return self._triggered(triggers, tags, _free(own), stop_after_first=once)

    def _triggered(
        self,
        triggers: tuple[str, ...],
        tags: list[tuple[str, Part]],
        free: Free = Free(),  # noqa: B008
        *,
        at_least_one: bool = False,
        stop_after_first: bool = False,
    ) -> Part:
        """Free text until a trigger comes, then one of the tags that begin with it."""
        by_trigger: dict[Part, list[Part]] = {}
        spelled: list[str] = []
        """Of the special tokens that the triggers have: as mere text they must not come."""
        for begin, behind in tags:
            own = [trigger for trigger in triggers if trigger and begin.startswith(trigger)]
            if len(own) != 1:
                raise GrammarError(f"each tag begins with exactly one of the triggers; {begin!r} does with {len(own)}")
            trigger, more, tokens = self._cut(begin, len(own[0]))
            by_trigger.setdefault(trigger, []).append(Sequence((more, behind)))
            spelled += tokens
        tag = Choice(tuple(Sequence((trigger, Choice(tuple(ways)))) for trigger, ways in by_trigger.items()))
        free = replace(free, excludes=tuple(dict.fromkeys((*free.excludes, *spelled))))
        return _called(tag, free, at_least_one=at_least_one, stop_after_first=stop_after_first)

    def _cut(self, begin: str, length: int) -> tuple[Part, Part, list[str]]:
        """A text as its first characters and the others, and the special tokens in the first: none is cut in two."""
        first: list[Part] = []
        others: list[Part] = []
        tokens: list[str] = []
        for text, part in self._marks.parts_of(begin):
            if length <= 0:
                others.append(part)
            elif isinstance(part, Fixed):
                first.append(Fixed(text[:length]))
                others.append(Fixed(text[length:]))
            else:
                first.append(part)
                tokens.append(text)
            length -= len(text)
        return Sequence(tuple(first)), Sequence(tuple(others)), tokens


def _called(tag: Part, free: Free, *, at_least_one: bool, stop_after_first: bool) -> Part:
    """Tags within free text. Where there must be one, it comes first."""
    led = Sequence((free, tag))
    if stop_after_first:
        return tag if at_least_one else Sequence((free, optional(tag)))
    return Sequence((tag if at_least_one else NOTHING, Repeat(led), free))


def _free(own: dict[str, Any]) -> Free:
    """Free text. The pattern of what it contains no match of is this server's own."""
    pattern = _text(own, "excluded_pattern") if own.get("excluded_pattern") is not None else ""
    return Free(_texts(own, "excludes"), pattern)


def _grammar(own: dict[str, Any]) -> Part:
    return ContextFree(read_grammar(_text(own, "grammar")))


def read_grammar(source: str) -> str:
    """A grammar in Lark's syntax, whichever of the two it comes in.

    Raises:
        GrammarError: it cannot be read.
    """
    try:
        lark: str = any_to_lark(source)
    except Exception as error:  # its parser raises whatever comes to hand
        raise GrammarError(f"the grammar cannot be read: {error}"[:500]) from error
    return lark


def _ways(own: dict[str, Any]) -> dict[str, bool]:
    ways = {name: own.get(name, False) for name in ("at_least_one", "stop_after_first")}
    for name, value in ways.items():
        if not isinstance(value, bool):
            _wrong(own, name, "true or false")
    return ways


def _schema(own: Any, name: str) -> str:
    schema = own.get(name) if isinstance(own, dict) else None
    if not isinstance(schema, dict | bool) or schema is False:
        _wrong(own, name, "a JSON schema, an object")
    return json.dumps({} if schema is True else schema, ensure_ascii=False, separators=(",", ":"))


def _object(own: dict[str, Any], name: str, kind: str) -> dict[str, Any]:
    value = own.get(name)
    if not isinstance(value, dict):
        raise GrammarError(f"{name} of {kind} must be an object")
    return value


def _text(own: Any, name: str) -> str:
    value = own.get(name) if isinstance(own, dict) else None
    return value if isinstance(value, str) else _wrong(own, name, "a text")


def _list(own: Any, name: str) -> list[Any]:
    value = own.get(name) if isinstance(own, dict) else None
    return value if isinstance(value, list) else _wrong(own, name, "a list")


def _texts(own: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = own.get(name) or []
    if not isinstance(texts, list) or any(not isinstance(text, str) or not text for text in texts):
        _wrong(own, name, "a list of texts that are not empty")
    return tuple(texts)


def _count(own: dict[str, Any], name: str) -> int:
    value = own.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else _wrong(own, name, "a whole number")


def _wrong(own: Any, name: str, wanted: str) -> Any:
    kind = own.get("type", "structural_tag") if isinstance(own, dict) else "a tag"
    raise GrammarError(f"{name} of {kind} must be {wanted}")
