"""Tools over HTTP with the real model, which is made to call them: what it emits parses, however it is asked for."""

import json
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from server.conftest import Server

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Paris, and what is 2 + 3?"}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"type": "integer", "maximum": 99}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "add": ADD}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": f"Do {name}.", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASK: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 60, "seed": 5, "tools": TOOLS}


def arguments_of(call: Any) -> Any:
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, SCHEMAS[call.function.name])
    return arguments


@pytest.mark.parametrize("parallel", [True, False])
def test_a_call_that_must_be_made_is_made_and_conforms(client: OpenAI, parallel: bool) -> None:
    answer = client.chat.completions.create(**ASK, tool_choice="required", parallel_tool_calls=parallel)
    [choice] = answer.choices
    assert choice.message.tool_calls
    if choice.finish_reason == "tool_calls":  # else the last was cut short
        for call in choice.message.tool_calls:
            arguments_of(call)
    assert parallel or (len(choice.message.tool_calls) == 1 and choice.finish_reason == "tool_calls")
    assert not choice.message.content


def test_the_tool_that_is_named_is_the_one_that_is_called_once(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "add"}}
    answer = client.chat.completions.create(**ASK, tool_choice=named)
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "add"
    assert call.id.startswith("call_")
    assert set(arguments_of(call)) == {"a", "b"}


@pytest.mark.parametrize(
    "options", [{}, {"n": 2, "temperature": 0.8}, {"max_tokens": 25}, {"tool_choice": "auto"}], ids=str
)
def test_streamed_calls_assembled_are_those_of_the_answer_sent_whole(client: OpenAI, options: dict[str, Any]) -> None:
    asked = {**ASK, "tool_choice": "required", **options}
    whole = client.chat.completions.create(**asked)
    calls: list[dict[int, list[str]]] = [{} for _ in whole.choices]
    texts, reasons = ["" for _ in whole.choices], [None for _ in whole.choices]
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            for piece in choice.delta.tool_calls or []:
                assert piece.function is not None
                if piece.id is not None:
                    calls[choice.index][piece.index] = [piece.function.name or "", ""]
                calls[choice.index][piece.index][1] += piece.function.arguments or ""
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert texts == [choice.message.content or "" for choice in whole.choices]
    assert [list(own.values()) for own in calls] == [
        [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
        for choice in whole.choices
    ]


def test_the_helper_of_the_client_assembles_the_stream(client: OpenAI) -> None:
    strict = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    with client.chat.completions.stream(
        **{**ASK, "tools": strict}, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        [call] = stream.get_final_completion().choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == arguments_of(call)


def test_the_results_of_tools_are_part_of_the_conversation(client: OpenAI) -> None:
    first = client.chat.completions.create(**ASK, tool_choice="required", parallel_tool_calls=False)
    said = first.choices[0].message
    [call] = said.tool_calls or []
    history = [*MESSAGES, said.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "It is 21 degrees."}]
    asked = {**ASK, "messages": history, "max_tokens": 4}
    second = client.chat.completions.create(**asked, tool_choice="none")
    alone = client.chat.completions.create(**{**asked, "messages": MESSAGES}, tool_choice="none")
    assert second.choices[0].message.tool_calls is None
    assert second.usage is not None
    assert alone.usage is not None
    assert second.usage.prompt_tokens > alone.usage.prompt_tokens + 20


def test_the_older_form_is_answered_in_kind(server: Server) -> None:
    functions = [tool["function"] for tool in TOOLS]
    body = {k: v for k, v in ASK.items() if k != "tools"} | {"functions": functions, "function_call": {"name": "add"}}
    with server.http() as http:
        [choice] = http.post("/v1/chat/completions", json=body).json()["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"]["name"] == "add"
    jsonschema.validate(json.loads(choice["message"]["function_call"]["arguments"]), ADD)


def test_text_of_a_schema_or_a_call(client: OpenAI) -> None:
    """With both, what comes is the one or the other."""
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "add", "schema": ADD}}
    answer = client.chat.completions.create(**ASK, response_format=wanted, parallel_tool_calls=False)
    message = answer.choices[0].message
    if message.tool_calls:
        arguments_of(message.tool_calls[0])
    else:
        jsonschema.validate(json.loads(message.content or ""), ADD)


def test_a_call_that_a_stop_cuts_short_is_not_to_be_made(server: Server) -> None:
    prompt = {"messages": MESSAGES, "seed": 5, "max_tokens": 60}
    anthropic_tool = {"name": "add", "input_schema": ADD}
    named = {"type": "function", "name": "add"}
    with server.http() as http:
        chat = http.post(
            "/v1/chat/completions",
            json={**prompt, "tools": TOOLS, "tool_choice": {"type": "function", "function": named}, "stop": ['"b"']},
        ).json()["choices"][0]
        message = http.post(
            "/v1/messages",
            json={**prompt, "tools": [anthropic_tool], "tool_choice": {"type": "any"}, "stop_sequences": ['"b"']},
        ).json()
        response = http.post(
            "/v1/responses",
            json={"input": "2 + 3?", "tools": [{**named, "parameters": ADD}], "tool_choice": named, "stop": ['"b"']},
        ).json()
    assert (chat["finish_reason"], chat["stop_reason"]) == ("stop", '"b"')
    assert '"b"' not in chat["message"]["tool_calls"][0]["function"]["arguments"]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", '"b"')
    assert message["content"][0]["type"] == "tool_use"
    assert response["output"][0]["status"] == "incomplete"


def test_a_structural_tag_beside_tools_is_refused(server: Server) -> None:
    tag = {"type": "structural_tag", "format": {"type": "any_text"}}
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=ASK | {"structured_outputs": {"structural_tag": tag}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "structured_outputs"
