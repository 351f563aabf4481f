"""Calls of tools over /v1/responses with the real model, which is made to call them."""

import json
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from server.checked_responses import ASK, check_stream, whole
from server.conftest import Server

ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "integer", "maximum": 99}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "name": "add", "description": "Add two numbers.", "parameters": ADD, "strict": True},
    {"type": "web_search"},
]
CALL: dict[str, Any] = {**ASK, "max_output_tokens": 80, "tools": TOOLS, "tool_choice": "required"}
CALL["parallel_tool_calls"] = False


@pytest.mark.parametrize("max_output_tokens", [80, 8])
def test_a_stream_of_a_call_assembled_is_the_call_sent_whole(server: Server, max_output_tokens: int) -> None:
    check_stream(server, **{**CALL, "max_output_tokens": max_output_tokens})


def test_a_call_that_must_be_made_is_made_and_its_result_goes_back(client: OpenAI) -> None:
    first = client.responses.create(**CALL)
    [call] = first.output
    assert call.type == "function_call"
    assert call.name == "add"
    jsonschema.validate(json.loads(call.arguments), ADD)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    history: list[Any] = [{"role": "user", "content": ASK["input"]}, call.model_dump(), result]
    second = client.responses.create(**{**ASK, "input": history, "tools": TOOLS, "tool_choice": "none"})
    assert [item.type for item in second.output] == ["message"]
    counted = client.responses.input_tokens.count(model="smollm2", input=history, tools=TOOLS)
    assert first.usage is not None
    assert counted.input_tokens > first.usage.input_tokens


def test_a_model_that_is_free_to_call_may_answer_in_a_form_that_is_asked_for(server: Server) -> None:
    form = {"type": "json_schema", "name": "sum", "schema": {"type": "integer", "maximum": 9, "minimum": 0}}
    fields = {**CALL, "tool_choice": "auto", "text": {"format": form}}
    for item in whole(server, **fields).output:
        match item.type:
            case "message":
                assert 0 <= json.loads(item.content[0].text) <= 9  # type: ignore[union-attr]
            case "function_call":
                jsonschema.validate(json.loads(item.arguments), ADD)
            case kind:
                raise AssertionError(kind)


def test_of_the_tools_that_are_allowed_one_is_called(server: Server) -> None:
    others = [{**tool, "name": f"{tool['name']}_more"} for tool in TOOLS if tool["type"] == "function"]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add_more"}]}
    response = whole(server, **{**CALL, "tools": [*TOOLS, *others], "tool_choice": choice})
    assert [item.name for item in response.output if item.type == "function_call"] == ["add_more"]


def test_the_client_reads_the_arguments_of_streamed_calls(client: OpenAI) -> None:
    with client.responses.stream(**CALL) as stream:
        deltas = [event for event in stream if event.type == "response.function_call_arguments.delta"]
        [call] = stream.get_final_response().output
    assert call.type == "function_call"
    assert deltas[-1].snapshot == call.arguments
    jsonschema.validate(call.parsed_arguments, ADD)
