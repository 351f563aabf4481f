"""Options of which a value can be at most one are followed; where that isn't certain, the schema is refused."""

from typing import Any

import pytest

from octavo.errors import RequestError
from octavo.sampling.exclusive_options import with_exclusive_options
from octavo.sampling.grammar_sources import check_grammar
from octavo.structured_outputs import StructuredOutputsParams

DEFS = {
    "text": {"type": "string"},
    "same": {"$ref": "#/$defs/text"},
    "loop": {"$ref": "#/$defs/loop"},
    "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
    "dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]},
    "pup": {"type": "object", "properties": {"kind": {"$ref": "#/$defs/word"}}, "required": ["kind"]},
    "word": {"enum": ["wolf", "pup"]},
    "maybe": {"type": "object", "properties": {"kind": {"const": "fox"}}},
}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


@pytest.mark.parametrize(
    "options",
    [
        [ref("same"), {"type": "array"}],
        [ref("text"), {"type": ["integer", "null"]}, {"const": True}],
        [ref("cat"), ref("dog")],
        [{"enum": [1, 2]}, {"const": 3.5}],
        [False, ref("text")],
    ],
)
def test_options_that_exclude_one_another_are_followed(options: list[Any]) -> None:
    schema = {"$defs": DEFS, "type": "object", "properties": {"a": {"oneOf": options}}}
    assert with_exclusive_options(schema)["properties"]["a"] == {"anyOf": options}
    check_grammar(StructuredOutputsParams(json=schema).grammar_of_output())


@pytest.mark.parametrize(
    "options",
    [
        [ref("text"), {"type": ["string", "null"]}],
        [{"type": "integer"}, {"type": "number"}],
        [{"type": "integer"}, {"minimum": 3}],
        [ref("dog"), ref("pup")],
        [ref("cat"), ref("maybe")],
        [ref("loop"), ref("text")],
        [ref("missing"), ref("text")],
        [{"enum": [1, 2]}, {"const": 1.0}],
    ],
)
def test_others_are_left_as_they_are(options: list[Any]) -> None:
    schema = {"$defs": DEFS, "oneOf": options}
    assert with_exclusive_options(schema) == schema


def test_what_stands_beside_other_options_or_among_values_is_left() -> None:
    options = [{"type": "null"}, {"type": "string"}]
    for schema in ({"oneOf": options, "anyOf": options}, {"const": {"oneOf": options}}, {"enum": [{"oneOf": options}]}):
        assert with_exclusive_options(schema) == schema


def test_a_dialect_of_somebodys_own_is_read_and_not_fetched() -> None:
    own = {"$schema": "http://iglucentral.com/schemas/self-desc/1-0-0#", "type": "string", "maxLength": 3}
    check_grammar(StructuredOutputsParams(json=own).grammar_of_output())
    with pytest.raises(RequestError):
        check_grammar(StructuredOutputsParams(json={"oneOf": [{"type": "integer"}, {}]}).grammar_of_output())
