"""What an answer must conform to, as callers say it and as an executor is told. A leaf: plain data, checked when
made."""

import json
from typing import Any, ClassVar

import msgspec

from octavo.errors import RequestError
from octavo.vllm.keywords import STRUCTURED, Parameters

CONSTRAINTS = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
"""The fields that say what an answer conforms to; exactly one of them is given."""


class Grammar(msgspec.Struct, frozen=True, tag=True):
    """What an output must conform to: of each sequence's tokens the grammar says which may come next."""

    kind: str
    """A name that the executor knows: how `source` is read."""
    source: str = ""


class ReasoningSection(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What an output may begin with: the model's reasoning, which no grammar holds to anything.

    Raises:
        RequestError: nothing ends it, or `max_tokens` is below 0.
    """

    opening: tuple[int, ...]
    """The token ids that open it, as the first of an output."""
    end: tuple[int, ...]
    """Those that end it. Other tokens that spell the same text end it, too."""
    is_open: bool
    """The prompt has opened it, and the output begins within it."""
    max_tokens: int | None = None
    """Of the section, between its opening and its end, which is then forced; None for no bound."""

    def __post_init__(self) -> None:
        _check(self.end, "end", "the tokens that end it", of="a reasoning section")
        _check(self.max_tokens is None or self.max_tokens >= 0, "max_tokens", "at least 0", of="a reasoning section")


class StructuredOutputsParams(msgspec.Struct, kw_only=True, omit_defaults=True, metaclass=Parameters):
    """What an output conforms to, under vLLM's names: one of the first six fields.

    Raises:
        RequestError: none of them is given, or two are, or a value cannot be had.
    """

    foreign: ClassVar = STRUCTURED
    """vLLM's keywords that are no fields."""

    json: Any = None
    """A JSON schema, as a dict or as its text: the output is a JSON value that validates against it."""
    json_object: bool | None = None
    """The output is a JSON object, any one."""
    regex: str | None = None
    """The whole output matches. The syntax is that of Rust's `regex`, without look-around and references."""
    choice: list[str] | None = None
    """The output is one of these texts."""
    grammar: str | None = None
    """A context-free grammar, in Lark's syntax (`start: ...`) or llama.cpp's GBNF (`root ::= ...`)."""
    structural_tag: Any = None
    """Free text with what is held to schemas within it, as a dict or as its text (`sampling.structural_tags`)."""
    whitespace_pattern: str | None = None
    """Of JSON: what may stand between its tokens, as a regex; by default a blank, or a line's end and indentation."""
    disable_any_whitespace: bool = False
    """Of JSON: nothing stands between its tokens."""
    disable_additional_properties: bool = False
    """Of JSON: an object that names properties has no others, wherever its schema does not say."""

    def __post_init__(self) -> None:
        given = [name for name in CONSTRAINTS if self._asks(name)]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise RequestError(f"structured outputs conform to one of {', '.join(CONSTRAINTS)}; given: {told}")
        for name in ("regex", "grammar", "whitespace_pattern"):
            _check(getattr(self, name) is None or isinstance(getattr(self, name), str), name, "a text")
        _check(
            self.choice is None
            or (isinstance(self.choice, list | tuple) and self.choice and all(isinstance(i, str) for i in self.choice)),
            "choice",
            "a list of texts, not empty",
        )
        _check(isinstance(self.structural_tag, str | dict | None), "structural_tag", "a dict or its text")
        for name in ("json_object", "disable_any_whitespace", "disable_additional_properties"):
            _check(getattr(self, name) in (None, False, True), name, "True or False")
        is_json = given[0] in ("json", "json_object")
        for name in ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"):
            _check(is_json or not getattr(self, name), name, f"left out with {given[0]}: it is for json")
        _check(
            not (self.disable_any_whitespace and self.whitespace_pattern is not None),
            "whitespace_pattern",
            "left out with disable_any_whitespace",
        )

    def grammar_of_output(self) -> Grammar:
        """The same, as an executor is told.

        Raises:
            RequestError: `json` is no JSON, or a text is not valid Unicode.
        """
        grammar = self._grammar()
        try:
            grammar.source.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{grammar.kind} is not valid Unicode: it holds half of a surrogate pair") from None
        return grammar

    def _grammar(self) -> Grammar:
        if self.regex is not None:
            return Grammar("regex", self.regex)
        if self.choice is not None:
            return Grammar("choice", json.dumps(list(dict.fromkeys(self.choice)), ensure_ascii=False))
        if self.grammar is not None:
            return Grammar("grammar", self.grammar)
        if self.structural_tag is not None:
            return Grammar("structural_tag", _json_text("structural_tag", self.structural_tag))
        schema = {"type": "object"} if self.json is None else _read_schema(self.json)
        if self.disable_additional_properties:
            schema = _closed(schema)
        whitespace: dict[str, Any] = {}
        if self.disable_any_whitespace:
            whitespace = {"whitespace_flexible": False}
        elif self.whitespace_pattern is not None:
            whitespace = {"whitespace_pattern": self.whitespace_pattern}
        if whitespace:
            schema = {**schema, "x-guidance": whitespace}
        elif self.json is None:
            return Grammar("json_object")
        return Grammar("json_schema", _json_text("json", schema))

    def _asks(self, name: str) -> bool:
        return getattr(self, name) not in ((None, False) if name == "json_object" else (None,))


GuidedDecodingParams = StructuredOutputsParams
"""Its older name."""


def _check(good: Any, field: str, wanted: str, of: str = "structured outputs") -> None:
    if not good:
        raise RequestError(f"{field} of {of} must be {wanted}")


def _json_text(field: str, value: Any) -> str:
    """A value as JSON text. One that is a text is that already.

    Raises:
        RequestError: it is none.
    """
    try:
        if isinstance(value, str):
            value = json.loads(value)
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        what = "a JSON schema" if field == "json" else "JSON"
        raise RequestError(f"{field} must be {what}: {error}") from error


def _read_schema(given: Any) -> Any:
    """The schema as an object, whichever way it was given.

    Raises:
        RequestError: it is none.
    """
    if hasattr(given, "model_json_schema"):  # a pydantic model, as vLLM takes it
        given = given.model_json_schema()
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"json must be a JSON schema, and its text is not valid JSON: {error}") from error
    if given is True:
        return {}
    if not isinstance(given, dict):
        raise RequestError(f"json must be a JSON schema, an object, got {type(given).__name__}")
    return given


def _closed(schema: Any) -> Any:
    """A schema whose objects have the properties that they name and no others, where it says nothing else."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: value if name in _VALUES else _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) or "patternProperties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


_VALUES = {"enum", "const", "default", "examples"}
"""Keywords of a schema that hold values and no schemas."""
