"""The fields of a body that say what the answer conforms to: OpenAI's, and those of other servers."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from octavo.errors import RequestError
from octavo.server.errors import ApiError
from octavo.server.openai.foreign_fields import unsupported
from octavo.structured_outputs import StructuredOutputsParams

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""Of a schema, as OpenAI has it."""


class Asked(NamedTuple):
    """What an answer conforms to, and the field that says so."""

    field: str
    params: StructuredOutputsParams


class StructuredFields(BaseModel):
    """For bodies that ask for an answer. One of the fields may be given."""

    response_format: dict[str, Any] | None = Field(
        None,
        description='{"type": "text"}, the default; {"type": "json_object"}, with a "schema" if one is wanted; or '
        '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}: the answer validates, strict or not; or '
        '{"type": "structural_tag", "format": ...}, xgrammar\'s',
    )
    structured_outputs: dict[str, Any] | None = Field(
        None,
        description="one of json (a schema), json_object, regex, choice, grammar (Lark or GBNF) and structural_tag; "
        "with JSON, whitespace_pattern, disable_any_whitespace and disable_additional_properties as well",
    )
    guided_json: dict[str, Any] | str | bool | None = Field(None, description="a JSON schema, or its text")
    guided_json_object: bool | None = Field(None, description="the answer is a JSON object")
    guided_regex: str | None = Field(None, description="the whole answer matches")
    guided_choice: list[str] | None = Field(None, description="the answer is one of these")
    guided_grammar: str | None = Field(None, description="a grammar in Lark's syntax or GBNF")
    guided_whitespace_pattern: str | None = Field(
        None, description="with guided_json or guided_json_object: a regex for what may stand between JSON's tokens"
    )
    json_schema: dict[str, Any] | str | bool | None = Field(None, description="as guided_json; SGLang's, llama.cpp's")
    regex: str | None = Field(None, description="as guided_regex; SGLang's")
    ebnf: str | None = Field(None, description="as guided_grammar; SGLang's")
    grammar: str | dict[str, Any] | None = Field(
        None, description='as guided_grammar, llama.cpp\'s; or TGI\'s {"type": "json" or "regex", "value": ...}'
    )

    structural_tag: dict[str, Any] | str | None = Field(
        None, description="free text with what is held to schemas within it, in xgrammar's form, or the text of it"
    )

    def structured(self) -> Asked | None:
        """What the answer is to conform to.

        Raises:
            ApiError: a field is wrong, or two are given.
        """
        given = {name: value for name, value in self.given_structures().items() if value is not None}
        if len(given) > 1:
            first, second = list(given)[:2]
            raise ApiError(400, f"{first} and {second} both say what the answer conforms to: send one", param=second)
        for name, value in given.items():
            if self.guided_whitespace_pattern is not None:
                if name not in ("guided_json", "guided_json_object"):
                    break
                value["whitespace_pattern"] = self.guided_whitespace_pattern
            return Asked(name, _params(name, value))
        if self.guided_whitespace_pattern is not None:
            name = "guided_whitespace_pattern"
            raise ApiError(400, f"{name} is for guided_json and guided_json_object only", param=name)
        return None

    def given_structures(self) -> dict[str, dict[str, Any] | None]:
        """The arguments of `StructuredOutputsParams` that each field asks for; None where it asks for nothing."""

        def one(name: str, value: Any) -> dict[str, Any] | None:
            return None if value is None or (name == "json_object" and not value) else {name: value}

        return {
            "response_format": None if self.response_format is None else _of_response_format(self.response_format),
            "structured_outputs": self.structured_outputs,
            "guided_json": one("json", self.guided_json),
            "guided_json_object": one("json_object", self.guided_json_object),
            "guided_regex": one("regex", self.guided_regex),
            "guided_choice": one("choice", self.guided_choice),
            "guided_grammar": one("grammar", self.guided_grammar),
            "json_schema": one("json", self.json_schema),
            "regex": one("regex", self.regex),
            "ebnf": one("grammar", self.ebnf),
            "grammar": _of_grammar(self.grammar),
            "structural_tag": one("structural_tag", self.structural_tag),
        }


def _params(field: str, arguments: Mapping[str, Any]) -> StructuredOutputsParams:
    try:
        return StructuredOutputsParams(**arguments)
    except RequestError as error:
        raise ApiError(400, f"{field}: {error}", param=field) from error


def _of_response_format(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    read = _RESPONSE_FORMATS.get(asked.get("type")) if isinstance(asked.get("type"), str) else None  # type: ignore[arg-type]
    if read is None:
        raise unsupported("response_format", f"its type is one of {', '.join(_RESPONSE_FORMATS)}")
    return read(asked)


def _of_json_object(asked: Mapping[str, Any]) -> dict[str, Any]:
    """With a schema it is llama.cpp's."""
    return {"json_object": True} if asked.get("schema") is None else {"json": asked["schema"]}


def _of_json_schema(asked: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's, or llama.cpp's with the schema right here."""
    named = asked.get("json_schema")
    if named is None and asked.get("schema") is not None:
        return {"json": asked["schema"]}
    if not isinstance(named, dict):
        raise _wrong("json_schema", "an object with name and schema")
    if not isinstance(named.get("name"), str) or not _NAME.fullmatch(named["name"]):
        raise _wrong("json_schema.name", "a text of 1 to 64 letters, digits, underscores and dashes")
    if named.get("strict") is not None and not isinstance(named["strict"], bool):
        raise _wrong("json_schema.strict", "true or false")
    schema = named.get("schema")
    if schema is None:
        return {"json_object": True}
    if not isinstance(schema, dict):
        raise _wrong("json_schema.schema", "an object")
    return {"json": schema}


_RESPONSE_FORMATS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "text": lambda asked: None,
    "json_object": _of_json_object,
    "json_schema": _of_json_schema,
    "structural_tag": lambda asked: {"structural_tag": dict(asked)},
}


def _of_grammar(asked: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if asked is None or asked == "":  # llama.cpp's way to ask for nothing
        return None
    if isinstance(asked, str):
        return {"grammar": asked}
    kind = {"json": "json", "json_object": "json", "regex": "regex"}.get(str(asked.get("type")))
    if kind is None or asked.get("value") is None:
        raise ApiError(400, 'grammar must be a text, or {"type": "json" or "regex", "value": ...}', param="grammar")
    return {kind: asked["value"]}


def _wrong(where: str, wanted: str) -> ApiError:
    return ApiError(400, f"response_format.{where} must be {wanted}", param="response_format")
