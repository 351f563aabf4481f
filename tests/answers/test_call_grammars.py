"""Whatever the grammar of a format's calls lets through, the format's reader finds calls in that validate."""

import json
from typing import Any, Literal

import jsonschema
import pytest

from grammar_walks import walks
from octavo.answers.formats import FORMATS as BUILT_IN
from octavo.answers.formats import built_in_format, format_of
from octavo.answers.parts import Answer
from octavo.answers.tools import Tool, ToolUse
from octavo.errors import RequestError
from octavo.structured_outputs import Grammar

Schema = dict[str, Any]
OWN = {
    "start_anchor": "<|im_start|>assistant",
    "fields": {
        "content": {},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{content.tool}", "arguments": "{content.args}"}},
        },
    },
}
"""A response template of a model's own."""
FORMATS = {
    **BUILT_IN,
    "mistral_args": built_in_format("mistral", "[TOOL_CALLS] [ARGS]"),
    "mistral_ids": built_in_format("mistral", "[TOOL_CALLS] [CALL_ID] [ARGS]"),
    "own": format_of("", OWN),
}


def of(required: tuple[str, ...] = (), **properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 99}, {"type": "boolean"}
NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
POINT = of(("x",), x=INTEGER, y=NULLABLE, seen=BOOLEAN)
SCHEMAS: list[Schema | None] = [
    None,
    of(),
    of(("city",), city=STRING),
    of(city=STRING, days=INTEGER),
    of(("days", "metric"), city=STRING, days=INTEGER, metric=BOOLEAN),
    of(("unit",), unit={"enum": ["C", "F", 'it\'s "K"']}, kind={"const": "daily"}),
    of(("note",), note=NULLABLE),
    of(("values",), values={"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 3}),
    of(("flags",), flags={"type": "array", "items": BOOLEAN, "maxItems": 2}, tags={"type": "array", "items": STRING}),
    of(("at",), at=POINT),
    of(("points",), points={"type": "array", "items": POINT, "maxItems": 2}),
    of(("size",), size={"type": "number", "minimum": -1.5, "maximum": 10}),
    of(("code",), code={"type": "string", "minLength": 1, "maxLength": 5}),
    of(("zip",), zip={"type": "string", "pattern": "^[0-9]{5}$"}),
    of(("level",), level={"type": ["integer", "null"]}),
    of(("either",), either={"anyOf": [INTEGER, STRING]}),
    of(("any_of",), any_of={"anyOf": [{"enum": ["auto", "off"]}, INTEGER, BOOLEAN]}),
    {**of(("a",), a={"$ref": "#/$defs/Point"}), "$defs": {"Point": POINT}},
    {"title": "Args", "description": "d", **of(q={**STRING, "title": "Q", "default": "x", "examples": ["y"]})},
    of(nothing={"type": "null"}, number={"enum": [1, 2, 5]}),
    of(("mixed",), mixed={"type": "array", "items": NULLABLE, "maxItems": 2}),
    {"type": "object", "properties": {"b": BOOLEAN}, "required": ["b"]},
]
TOOLS = tuple(Tool(f"tool_{number}", None, schema) for number, schema in enumerate(SCHEMAS))


def grammar_of(name: str, use: ToolUse, text: Schema | None = None) -> Grammar:
    grammar = FORMATS[name].answer_grammar(use, text)
    assert grammar is not None
    return Grammar("structural_tag", json.dumps({"format": grammar}))


def answers(name: str, use: ToolUse, num_walks: int, held: Schema | None = None) -> list[tuple[str, Answer]]:
    """What the format's reader finds in random outputs that conform, those that came to an end. Half of them begin as
    calls do."""
    compiled, writing = walks().compiled(grammar_of(name, use, held)), FORMATS[name].writing
    assert writing is not None
    begins = ["", *(writing.before + writing.opening_of(tool.name).partition("{id}")[0] for tool in use.callable_tools)]
    texts = [
        walks().walk(compiled, seed, begins[seed // 2 % len(begins)] if seed % 2 else "") for seed in range(num_walks)
    ]
    return [(text, read(name, use, text)) for text in texts if text is not None]


def read(name: str, use: ToolUse, text: str) -> Answer:
    reader, answer = FORMATS[name].reader("", use), Answer()
    answer.add(reader.push(text))
    answer.add(reader.finish())
    return answer


def check_calls(answer: Answer, tools: tuple[Tool, ...], text: str) -> None:
    schemas = {tool.name: tool.parameters or {"type": "object", "maxProperties": 0} for tool in tools}
    for call in answer.calls:
        assert jsonschema.Draft202012Validator(schemas[call.name]).is_valid(json.loads(call.arguments)), text


@pytest.mark.parametrize("tool", TOOLS[::7], ids=lambda tool: str(tool.name))
@pytest.mark.parametrize("name", FORMATS)
def test_a_named_tool_is_called_once_and_its_arguments_validate(name: str, tool: Tool) -> None:
    use = ToolUse(TOOLS, "required", tool.name)
    ended = answers(name, use, 4)
    assert ended
    for text, answer in ended:
        assert [call.name for call in answer.calls] == [tool.name], text
        assert not answer.text, text
        check_calls(answer, TOOLS, text)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_required_calls_are_one_at_least_and_one_only_where_they_are_not_parallel(name: str, parallel: bool) -> None:
    ended = answers(name, ToolUse(TOOLS, "required", parallel=parallel), 2 * len(TOOLS) + 2)
    assert ended
    for text, answer in ended:
        assert answer.calls, text
        assert not answer.text.strip(), text
        assert parallel or len(answer.calls) == 1, text
        check_calls(answer, TOOLS, text)
    assert len({call.name for _, answer in ended for call in answer.calls}) > len(TOOLS) - 4
    assert not parallel or name == "harmony" or any(len(answer.calls) > 1 for _, answer in ended)


@pytest.mark.parametrize("name", FORMATS)
def test_strict_tools_are_held_to_their_schemas_within_free_text(name: str) -> None:
    strict = tuple(Tool(tool.name, None, tool.parameters, strict=True) for tool in TOOLS[2:5])
    loose = Tool("loose", None, of(("x",), x=INTEGER))
    ended = answers(name, ToolUse((*strict, loose)), 16)
    called = [call for _, answer in ended for call in answer.calls]
    assert called
    assert any(answer.text and not answer.calls for _, answer in ended)
    for text, answer in ended:
        for call in answer.calls:
            if call.name == "loose":
                assert isinstance(json.loads(call.arguments), dict), text
        check_calls(Answer(calls=[call for call in answer.calls if call.name != "loose"]), TOOLS, text)


@pytest.mark.parametrize("name", FORMATS)
def test_free_answers_have_one_call_at_most_where_calls_are_not_parallel(name: str) -> None:
    ended = answers(name, ToolUse(TOOLS[:3], parallel=False), 16)
    assert {len(answer.calls) for _, answer in ended} == {0, 1}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"llama3_json"}))  # there a call is JSON like any other
@pytest.mark.parametrize("use", [ToolUse(), ToolUse(TOOLS[2:4])], ids=["no tools", "tools"])
def test_text_that_is_held_to_a_schema_validates_where_it_is_no_call(name: str, use: ToolUse) -> None:
    ended = answers(name, use, 8, {"type": "json_schema", "json_schema": POINT})
    texts = [answer.text for _, answer in ended if not answer.calls]
    assert texts
    for text in texts:
        assert jsonschema.Draft202012Validator(POINT).is_valid(json.loads(text)), text
    for text, answer in ended:
        check_calls(answer, TOOLS, text)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_nothing_is_held_where_nothing_asks_for_it(name: str, choice: Literal["auto", "none"]) -> None:
    assert FORMATS[name].answer_grammar(ToolUse(TOOLS, choice)) is None
    assert FORMATS[name].answer_grammar(ToolUse()) is None


def test_calls_that_only_a_pattern_tells_of_are_not_held_to_anything() -> None:
    section = {**OWN["fields"]["tool_calls"], "open_pattern": "<calls?>"}  # type: ignore[index]
    del section["open"]
    own = format_of("", {**OWN, "fields": {"content": {}, "tool_calls": section}})
    assert own.answer_grammar(ToolUse(TOOLS)) is None
    for use in (ToolUse(TOOLS, "required"), ToolUse(TOOLS, parallel=False), ToolUse((Tool("a", strict=True),))):
        with pytest.raises(RequestError, match="--tool-parser"):
            own.answer_grammar(use)
