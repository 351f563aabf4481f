"""/v1/responses without a model: what its fields ask for, and the events that an answer's parts become."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter, ValidationError

from octavo.answers.parts import CallArguments, CallStart, Part, Reasoning, Text
from octavo.server.conversing import EndReason
from octavo.server.errors import ApiError
from octavo.server.openai.answers import ContentLogprob
from octavo.server.openai.responses_body import ResponsesBody
from octavo.server.openai.responses_input import chat_messages
from octavo.server.openai.responses_items import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseObject,
    ResponseUsage,
)
from octavo.server.openai.responses_writer import ResponseWriter

USAGE = ResponseUsage(3, InputTokensDetails(0), 4, OutputTokensDetails(0), 7)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ALLOWED = {"type": "allowed_tools", "mode": "auto"}
ADD: dict[str, Any] = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def written(*steps: Sequence[Part], end: EndReason = "stop", **options: Any) -> tuple[list[Any], Response]:
    """The events of an answer as the official client reads them, and the response that is sent whole."""
    writer = ResponseWriter(ResponseObject("resp_1", 1, "m"), **options)
    sent = [*writer.begin()]
    for parts in steps:
        sent += writer.write(parts)
    sent += writer.end(end, USAGE)
    events = [EVENT.validate_json(msgspec.json.encode(event), strict=True) for event in sent]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events, Response.model_validate_json(msgspec.json.encode(writer.response))


def body(**fields: Any) -> ResponsesBody:
    return ResponsesBody(**{"input": "Hi", **fields})


def types(events: Sequence[Any]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def test_the_events_of_a_text_are_complete_and_in_order() -> None:
    events, response = written([Text("Hi ")], [Text("you")])
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.delta for event in events[4:6]] == ["Hi ", "you"]
    assert events[2].item.status == "in_progress"
    assert events[2].item.content == []
    assert events[8].item == response.output[0] == events[-1].response.output[0]
    assert {event.item_id for event in events[3:8]} == {events[2].item.id}
    assert response.output_text == "Hi you"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.total_tokens == 7


def test_reasoning_text_and_calls_are_items_in_their_order() -> None:
    events, response = written(
        [Reasoning("Hm"), Reasoning(".")],
        [Text("\n")],
        [Text("Let"), CallStart(0, "add", "call_1")],
        [CallArguments(0, '{"a"'), CallArguments(0, ": 1}"), Text("\n\n"), CallStart(1, "sub"), CallArguments(1, "{}")],
        end="tool_calls",
    )
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, message, first, second = response.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or []] == ["Hm."]
    assert reasoning.encrypted_content is None
    assert message.type == "message"
    assert response.output_text == "\nLet"
    assert first.type == second.type == "function_call"
    assert (first.name, first.call_id, first.arguments) == ("add", "call_1", '{"a": 1}')
    assert (second.name, second.arguments) == ("sub", "{}")
    assert second.call_id.startswith("call_")
    places = [event.output_index for event in events[2:-1]]
    assert places == sorted(places)
    assert response.output == [event.item for event in events if event.type.endswith("item.done")]
    assert types(events[2:8]) == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
    ]
    assert types(events)[-5:] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]


def test_reasoning_that_is_encrypted_comes_back_as_it_was() -> None:
    _, response = written([Reasoning("Hm."), Text("Yes")], encrypts_reasoning=True)
    item = response.output[0].model_dump(exclude={"content"})
    [turn] = chat_messages(None, [item, response.output[1].model_dump()])
    assert turn == {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}


@pytest.mark.parametrize("parts", [[], [Text("  ")]], ids=["nothing", "blanks"])
def test_an_answer_of_nothing_else_is_a_message(parts: list[Part]) -> None:
    events, response = written(parts)
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == "".join(part.text for part in parts if isinstance(part, Text))
    assert types(events)[-1] == "completed"


def test_what_is_cut_short_says_so() -> None:
    events, response = written([CallStart(0, "add"), CallArguments(0, '{"a')], end="length")
    assert types(events)[-1] == "incomplete"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    [call] = response.output
    assert call.type == "function_call"
    assert call.status == "incomplete"
    assert call.arguments == '{"a'


def test_an_error_ends_the_stream_by_an_event_of_its_own() -> None:
    writer = ResponseWriter(ResponseObject("resp_1", 1, "m"))
    sent = [*writer.begin(), *writer.write([Text("Hi")]), *writer.fail(ApiError(503, "The engine has stopped."))]
    events = [EVENT.validate_json(msgspec.json.encode(event)) for event in sent]
    assert types(events)[-3:] == ["output_item.done", "error", "failed"]
    assert events[-2].message == "The engine has stopped."
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"
    assert events[-1].response.output_text == "Hi"


def test_each_logprob_is_told_once_with_the_text_that_it_comes_with_or_goes_before() -> None:
    entries = [ContentLogprob(letter, -1.0, [ord(letter)], []) for letter in "abcd"]
    writer = ResponseWriter(ResponseObject("resp_1", 1, "m"))
    sent = [*writer.begin(), *writer.write([], entries[:1]), *writer.write([Text("ab")], entries[1:2])]
    sent += [*writer.write([Text("c")], entries[2:3]), *writer.write([], entries[3:]), *writer.end("stop", USAGE)]
    events = [EVENT.validate_json(msgspec.json.encode(event)) for event in sent]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [[each.token for each in event.logprobs] for event in deltas] == [["a", "b"], ["c"], ["d"]]
    [message] = events[-1].response.output
    assert [each.token for each in message.content[0].logprobs] == ["a", "b", "c", "d"]
    assert message.content[0].text == "abc"


@pytest.mark.parametrize(
    ("fields", "choice", "named", "names"),
    [
        ({}, "auto", None, ["add", "sub"]),
        ({"tool_choice": "none"}, "none", None, ["add", "sub"]),
        ({"tool_choice": "required"}, "required", None, ["add", "sub"]),
        ({"tool_choice": {"type": "function", "name": "sub"}}, "required", "sub", ["add", "sub"]),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "sub"}],
                }
            },
            "required",
            None,
            ["sub"],
        ),
        (
            {"tool_choice": {**ALLOWED, "tools": [{"type": "web_search"}]}},
            "auto",
            None,
            [],
        ),
    ],
    ids=str,
)
def test_functions_are_offered_and_tools_that_a_server_would_run_left_out(
    fields: dict[str, Any], choice: str, named: str | None, names: list[str]
) -> None:
    tools = [ADD, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}, {**ADD, "name": "sub", "strict": True}]
    use = body(tools=tools, **fields).tool_use()
    assert (use.choice, use.named) == (choice, named)
    assert [tool.name for tool in use.tools] == names
    assert all(tool.strict == (tool.name == "sub") for tool in use.tools)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tool_choice": "any"}, "tool_choice", "must be"),
        ({"tool_choice": {"type": "function", "name": "sub"}}, "tool_choice", "'sub'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "must be"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "runs no tools"),
        ({"tool_choice": {"type": "custom", "name": "add"}}, "tool_choice", "runs no tools"),
        ({"tool_choice": ALLOWED}, "tool_choice", "must be"),
        (
            {"tool_choice": {**ALLOWED, "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice",
            "'x'",
        ),
        ({"tool_choice": "required", "tools": [{"type": "web_search"}]}, "tool_choice", "no tools"),
        ({"tools": ["add"]}, "tools", "must be an object"),
        ({"tools": [{"type": "function", "function": {"name": "add"}}]}, "tools", "name"),
        ({"tools": [ADD, ADD]}, "tools", "'add'"),
    ],
    ids=str,
)
def test_tools_that_cannot_be_called_are_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        body(**{"tools": [ADD], **fields}).tool_use()
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"conversation": {"id": "conv_1"}}, "conversation", "send the whole conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "send the text as input"),
        ({"background": True}, "background", "wait for the answer"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "leave it out"),
        ({"max_length": 4}, "max_length", "send max_output_tokens"),
        ({"messages": []}, "messages", "as input"),
        ({"n": 2}, "n", "one answer"),
        ({"logprobs": True}, "logprobs", "send top_logprobs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", '"medium"'),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message", "exclude"),
    ],
    ids=str,
)
def test_fields_that_cannot_be_carried_out_are_refused_by_name(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        body(**fields).check_supported()
    assert refused.value.param == param


def test_fields_that_ask_for_nothing_pass() -> None:
    fields: dict[str, Any] = {
        "previous_response_id": None,
        "background": False,
        "store": True,
        "stream_options": {"include_obfuscation": False},
        "service_tier": "auto",
        "prompt_cache_retention": "24h",
        "max_tool_calls": 3,
        "include": ["web_search_call.results"],
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "context_management": None,
        "n": 1,
    }
    asked = body(**fields)
    asked.check_supported()
    assert asked.params().structured_outputs is None
    assert asked.params().logprobs is None


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"text": {"format": {"type": "xml"}}}, "text.format", "one of text, json_object, json_schema"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format", "name must be"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": []}}}, "text.format", "schema must be"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": "yes"}}},
            "text.format",
            "strict must be",
        ),
        ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, "text.format", "guided_regex and text"),
    ],
    ids=str,
)
def test_forms_of_text_that_are_wrong_are_refused(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ApiError, match=words) as refused:
        body(**fields).params()
    assert refused.value.param == param


def test_the_fields_become_the_parameters_that_the_engine_takes() -> None:
    schema = {"type": "object"}
    params = body(
        max_output_tokens=8,
        temperature=0.5,
        top_k=3,
        seed=1,
        stop=["."],
        top_logprobs=2,
        text={"format": {"type": "json_schema", "name": "a", "schema": schema}},
    ).params()
    assert (params.max_tokens, params.temperature, params.top_k, params.seed) == (8, 0.5, 3, 1)
    assert params.stop == ["."]
    assert params.logprobs == 2
    assert params.structured_outputs is not None
    assert params.structured_outputs.json == schema
    assert body(include=["message.output_text.logprobs"]).params().logprobs == 0


def test_an_effort_says_nothing_to_a_model_that_does_not_think() -> None:
    asked = body(reasoning={"effort": "high", "summary": "auto"})
    assert asked.asked_reasoning(can_think=False).effort is None
    assert asked.asked_reasoning(can_think=True).effort == "high"
    assert body(reasoning_effort="low").asked_reasoning(can_think=False).effort == "low"


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"\ud800": "a"}},
        {"instructions": "\ud800"},
        {"tools": [{**ADD, "description": "\ud800"}]},
        {"tool_choice": {"type": "function", "name": "\udc00"}},
        {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"const": "\ud800"}}}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_could_not_be_told_again_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        body(**fields)
