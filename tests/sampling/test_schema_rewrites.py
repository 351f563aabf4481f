"""Schemas said in other words allow the same: whatever comes out validates, and what validates may come out."""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import BaseModel, Field

from grammar_walks import walks
from octavo.errors import RequestError
from octavo.sampling.grammar_sources import check_grammar
from octavo.sampling.schema_rewrites import rewritten
from octavo.structured_outputs import Grammar

Schema = dict[str, Any]


class Unit(Enum):
    """Of temperatures."""

    CELSIUS = "C"
    KELVIN = "K"


class Forecast(BaseModel):
    """With what pydantic writes in keywords that grammars lack."""

    units: set[Unit]
    highs: dict[Unit, int]
    codes: dict[Annotated[str, Field(min_length=1, max_length=2)], bool]
    file: Path
    raw: bytes


def closed(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


NUMBER = {"type": "integer", "minimum": 0, "maximum": 9}
MODE = {"enum": ["a", "b", "c"]}
ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
CASES: list[tuple[Schema, list[Any], list[Any]]] = [
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": NUMBER}, [{"x": 1}], [{"x": ""}]),
    (
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": NUMBER, "required": ["b"]},
        [{"b": 1}, {"a": 1, "b": 2}],
        [{"a": 1}, {"b": 1, "c": 1}],
    ),
    (
        {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": NUMBER},
        [{}, {"ab": 1}],
        [{"A": 1}],
    ),
    ({"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": {}}, [{"é": []}], [{"abc": 1}]),
    ({"type": "array", "items": NUMBER, "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 2]]),
    ({"type": "array", "items": NUMBER, "uniqueItems": False, "maxItems": 2}, [[1, 1]], [[1, 1, 1]]),
    ({"type": "array", "items": MODE, "uniqueItems": True}, [[], ["c", "a", "b"]], [["a", "a"], ["d"]]),
    ({"type": "array", "items": MODE, "uniqueItems": True, "minItems": 2}, [["b", "a"]], [["a"]]),
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, [[True, False]], [[True, True]]),
    (closed(a=NUMBER, b={"not": {}}), [{"a": 1}, {}], [{"b": 1}]),
    ({"type": ["null", "string", "integer"], "maximum": 3, "not": {"type": "null"}}, ["a", 3], [None]),
    ({"enum": ["a", 1, True, None], "not": {"enum": ["a", True]}}, [1, None], ["a", True]),
    ({"type": "string", "maxLength": 2, "not": {"const": ""}}, ["a"], [""]),
    ({**closed(a=NUMBER, b=NUMBER), "not": {"required": ["b"]}}, [{}, {"a": 1}], [{"b": 1}]),
    (
        {
            **closed(("mode",), mode=MODE, value={"type": ["string", "integer"], "maxLength": 2, "maximum": 5}),
            "if": {"properties": {"mode": {"const": "a"}}},
            "then": {"properties": {"value": {"type": "string"}}, "required": ["value"]},
            "else": {"properties": {"value": {"type": "integer"}}},
        },
        [{"mode": "a", "value": "x"}, {"mode": "b"}, {"mode": "c", "value": 1}],
        [{"mode": "a"}, {"mode": "a", "value": 1}, {"mode": "b", "value": "x"}],
    ),
    (
        {
            **closed(mode=MODE, value=NUMBER),
            "if": {"properties": {"mode": {"enum": ["a", "b"]}}, "required": ["mode"]},
            "then": {"required": ["value"]},
        },
        [{}, {"value": 1}, {"mode": "c"}, {"mode": "a", "value": 1}],
        [{"mode": "a"}, {"mode": "b"}],
    ),
    (
        {
            **closed(mode=MODE, value=NUMBER),
            "if": {"properties": {"mode": {"const": "a"}}},
            "then": {"required": ["value"]},
        },
        [{"value": 1}, {"mode": "b"}],
        [{}, {"mode": "a"}],
    ),
    ({**closed(a=NUMBER, b=NUMBER), "dependentRequired": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 1}], [{"a": 1}]),
    ({"oneOf": [closed(("a",), a=NUMBER), closed(("b",), b=NUMBER)]}, [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    ({"type": "object", "properties": {"a": NUMBER}, "unevaluatedProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
    ({"type": "string", "format": "password", "maxLength": 3}, ["", "a b"], ["abcd"]),
    ({"type": "integer", "format": "int32", "minimum": 2**31 - 3}, [2**31 - 1], [2]),
    ({"type": "string", "pattern": ZOD_EMAIL, "maxLength": 20}, ["a.b'c+d@e-f.gh", "a@b.cd"], ["a'@b.cd", "a@b"]),
]  # fmt: skip


def ids(case: Any) -> str:
    return json.dumps(case)[:60]


@pytest.mark.parametrize(("schema", "good", "bad"), CASES, ids=ids)
def test_what_a_rewritten_schema_allows_is_what_the_schema_does(
    schema: Schema, good: list[Any], bad: list[Any]
) -> None:
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert [valid(value) for value in [*good, *bad]] == [True] * len(good) + [False] * len(bad)
    compiled = walks().compiled(Grammar("json_schema", json.dumps(schema)))
    assert [walks().conforms(compiled, json.dumps(value, ensure_ascii=False)) for value in good] == [True] * len(good)
    assert [walks().conforms(compiled, json.dumps(value, ensure_ascii=False)) for value in bad] == [False] * len(bad)
    ended = [text for seed in range(12) if (text := walks().walk(compiled, seed)) is not None]
    assert ended
    for text in ended:
        assert valid(json.loads(text)), text


def test_sets_paths_bytes_and_dicts_of_pydantic_are_carried_out() -> None:
    compiled = walks().compiled(Grammar("json_schema", json.dumps(Forecast.model_json_schema())))
    ended = [text for seed in range(8) if (text := walks().walk(compiled, seed)) is not None]
    assert ended
    for text in ended:
        Forecast.model_validate_json(text)
    assert not walks().conforms(compiled, '{"units": ["C", "C"]')


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": {"enum": list("abcdefgh")}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"not": {"minimum": 3}}, "not"),
        ({"type": "number", "not": {"type": "integer"}}, "not"),
        ({"not": {"required": ["a"]}}, "not"),
        ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"),
        ({"type": "object", "properties": {"Ab": {}}, "propertyNames": {"pattern": "^[a-z]+$"}}, "propertyNames"),
        ({"oneOf": [closed(a=NUMBER), closed(b=NUMBER)]}, "oneOf"),
        ({"type": "string", "format": "colour"}, "colour"),
        ({"type": "string", "pattern": "^(?!a)b"}, "look-around"),
    ],
    ids=ids,
)
def test_what_cannot_be_said_otherwise_is_refused_by_name(schema: Schema, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_grammar(Grammar("json_schema", json.dumps(schema)))


def test_values_are_no_schemas() -> None:
    schema = {"enum": [{"not": {}, "format": "password"}], "default": {"uniqueItems": True}}
    assert rewritten(schema) == schema
