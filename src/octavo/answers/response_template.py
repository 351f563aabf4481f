"""How a model marks the sections of its answers, in the field's declarative form: `response_template`.

transformers (from 5.13 on) reads such templates from tokenizer_config.json and specifies them ("Response Parsing" in
its documentation). A template has fields: reasoning, content and calls, each with what opens and closes it in the text,
and with how its content is written. Text outside of all sections is the field's that nothing opens; without such a
field it is left out where the content has a field of its own.

The formats of this package are written in it, too, with two additions: a field may be a list of fields, each another
way to write the same; and `ignored` are texts between sections that belong to none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from octavo.answers.call_shape import CallShape, call_shape
from octavo.answers.delimiters import LONGEST_MATCH, Delimiter


class Kind(Enum):
    """What a section holds."""

    REASONING = "reasoning"
    CONTENT = "content"
    CALLS = "calls"


KINDS = {
    "thinking": Kind.REASONING,
    "reasoning": Kind.REASONING,
    "reasoning_content": Kind.REASONING,
    "content": Kind.CONTENT,
    "tool_calls": Kind.CALLS,
}
"""What each field's name says."""
CALL_CONTENTS = ("json", "xml-inline", "kv-lines", "python-call-list")
"""How calls are written."""
TEXT_CONTENTS = ("text", "int", "float", "bool", *CALL_CONTENTS)
"""How other sections are written; they are text here, whatever they hold."""
_TEMPLATE_KEYS = {"version", "defaults", "fields", "start_anchor", "start_anchor_pattern", "ignored"}
_FIELD_KEYS = {
    *("open", "open_pattern", "close", "close_pattern", "content", "content_args"),
    *("repeats", "join", "optional", "transform", "transform_each"),
}


@dataclass(frozen=True, slots=True)
class Section:
    """A kind of section."""

    kind: Kind
    open: Delimiter | None
    """None for the text outside of all others."""
    close: Delimiter | None
    """None where it goes on to the answer's end, or a call ends by itself."""
    content: str = "text"
    """How it is written: one of `CALL_CONTENTS` for calls."""
    content_args: Mapping[str, Any] | None = None
    shape: CallShape | None = None
    """Of calls."""


@dataclass(frozen=True, slots=True)
class ResponseTemplate:
    """What a template says."""

    sections: tuple[Section, ...]
    """Those that something opens."""
    outside: Section | None
    """Where the text outside of sections belongs; None where it is left out."""
    start_anchor: Delimiter
    """What the answer begins behind in a prompt."""
    ignored: Delimiter | None
    unknown_fields: tuple[str, ...]
    """Fields that are of no use here."""

    @property
    def markers(self) -> frozenset[str]:
        """The texts of all delimiters, as `Delimiter.marker` has them."""
        sections = (*self.sections, *([self.outside] if self.outside is not None else []))
        ends = [end for section in sections for end in (section.open, section.close) if end is not None]
        return frozenset(end.marker for end in [*ends, *([self.ignored] if self.ignored is not None else [])])


def read_response_template(source: Any) -> ResponseTemplate:
    """Read a template's JSON.

    Raises:
        ValueError: it is malformed, or says what cannot be carried out here.
    """
    _expect(isinstance(source, Mapping), "it must be an object")
    _expect(source.get("version", 1) == 1, f"its version is {source.get('version')!r}, and only 1 is known")
    _expect(not (unknown := set(source) - _TEMPLATE_KEYS), f"it has unknown keys: {', '.join(sorted(unknown))}")
    anchor = _delimiter("the template", source, "start_anchor")
    if anchor is None:
        raise ValueError("it has neither start_anchor nor start_anchor_pattern")
    fields = source.get("fields")
    if not isinstance(fields, Mapping) or not fields:
        raise ValueError("its fields must be an object that is not empty")
    known = {name: field for name, field in fields.items() if name in KINDS}
    sections = [_section(name, field) for name, fields in known.items() for field in _alternatives(fields)]
    implicit = [section for section in sections if section.open is None]
    _expect(len(implicit) <= 1, "more than one field has nothing that opens it")
    has_content = any(section.kind is Kind.CONTENT for section in sections)
    return ResponseTemplate(
        sections=tuple(section for section in sections if section.open is not None),
        outside=implicit[0] if implicit else None if has_content else Section(Kind.CONTENT, None, None),
        start_anchor=anchor,
        ignored=_delimiter("the template", source, "ignored"),
        unknown_fields=tuple(name for name in fields if name not in KINDS),
    )


def _alternatives(field: Any) -> Iterator[Any]:
    if isinstance(field, list):
        yield from field
    else:
        yield field


def _section(name: str, field: Any) -> Section:
    scope = f"field {name}"
    _expect(isinstance(field, Mapping), f"{scope} must be an object")
    _expect(not (unknown := set(field) - _FIELD_KEYS), f"{scope} has unknown keys: {', '.join(sorted(unknown))}")
    kind, content, args = KINDS[name], field.get("content", "text"), field.get("content_args", {})
    _expect(isinstance(args, Mapping), f"{scope}: content_args must be an object")
    opening, close = _delimiter(scope, field, "open"), _delimiter(scope, field, "close")
    contents = CALL_CONTENTS if kind is Kind.CALLS else TEXT_CONTENTS
    _expect(content in contents, f"{scope}: content is {content!r}, not one of {', '.join(contents)}")
    if kind is not Kind.CALLS:
        return Section(kind, opening, close)
    _expect(opening is not None, f"{scope}: nothing opens it")
    captures = (opening.groups if opening is not None else frozenset()) - {"content"}
    try:
        each = field.get("transform_each", False) is True or content == "python-call-list"
        shape = call_shape(field.get("transform"), each, captures)
    except ValueError as error:
        raise ValueError(f"{scope}: {error}") from error
    return Section(kind, opening, close, content, args, shape)


def _delimiter(scope: str, field: Mapping[str, Any], key: str) -> Delimiter | None:
    literals, pattern = field.get(key), field.get(f"{key}_pattern")
    if literals is not None and pattern is not None:
        raise ValueError(f"{scope} has both {key} and {key}_pattern")
    if pattern is not None:
        _expect(isinstance(pattern, str), f"{scope}: {key}_pattern must be a text")
        try:
            return Delimiter.of_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"{scope}: {key}_pattern {error}") from error
    if literals is None:
        return None
    texts: Sequence[Any] = [literals] if isinstance(literals, str) else literals
    is_list = isinstance(texts, list) and bool(texts)
    _expect(is_list and all(isinstance(text, str) and text for text in texts), f"{scope}: {key} must be texts")
    _expect(max(map(len, texts)) <= LONGEST_MATCH, f"{scope}: {key} is over {LONGEST_MATCH} characters long")
    return Delimiter.of_literals(*texts)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
