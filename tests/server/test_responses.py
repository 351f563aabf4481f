"""/v1/responses with the real model: what OpenAI's own client reads of it, whole and as events."""

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from octavo.answers.formats import built_in_format
from octavo.server.openai.responses_input import chat_messages
from server.checked_responses import ASK, check_stream, whole
from server.conftest import Server, serving, until

TOOLS: list[Any] = [
    {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}},
    {"type": "web_search"},
]
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Cat(BaseModel):
    """What `responses.parse` reads answers into."""

    kind: Literal["tabby", "black"]
    lives: Literal[7, 9]


def refusal(server: Server, **fields: Any) -> dict[str, Any]:
    with server.http() as http:
        answer = http.post("/v1/responses", json={**ASK, **fields})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_an_answer_has_what_openais_has_and_says_what_was_carried_out(server: Server, client: OpenAI) -> None:
    fields: dict[str, Any] = {"instructions": "Be brief.", "metadata": {"a": "b"}, "user": "me", "store": True}
    response = whole(server, **fields, reasoning={"effort": "high", "summary": "auto"}, tools=TOOLS, tool_choice="none")
    chat = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK["input"]}],
        max_completion_tokens=24,
        temperature=0,
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.id.startswith("resp_")
    assert (response.model, response.instructions, response.metadata) == ("smollm2", "Be brief.", {"a": "b"})
    assert (response.temperature, response.top_p, response.user) == (0, 1, "me")
    assert response.reasoning is not None
    assert response.reasoning.effort is None
    assert [tool.type for tool in response.tools] == ["function"]
    assert response.tool_choice == "none"
    assert response.model_extra is not None
    assert response.model_extra["store"] is False
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    is_cut = chat.choices[0].finish_reason == "length"
    assert response.status == ("incomplete" if is_cut else "completed")
    assert (response.completed_at is None) == is_cut


def test_a_prefix_that_is_cached_is_counted(server: Server) -> None:
    words = {"input": "Say it again. " * 20, "max_output_tokens": 1}
    whole(server, **words)
    usage = whole(server, **words).usage
    assert usage is not None
    assert 16 <= usage.input_tokens_details.cached_tokens < usage.input_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.9, "seed": 3, "top_logprobs": 2, "max_output_tokens": 8},
        {"max_output_tokens": 400, "stop": ["."]},
        {"text": {"format": {"type": "json_schema", "name": "p", "schema": PERSON}}, "max_output_tokens": 60},
    ],
    ids=["greedy", "drawn", "stopped", "json"],
)
def test_a_stream_assembled_is_the_answer_sent_whole(server: Server, fields: dict[str, Any]) -> None:
    check_stream(server, **fields)


def test_logprobs_are_told_of_each_token(server: Server) -> None:
    response = whole(server, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=4)
    [message] = response.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs is not None
    assert response.usage is not None
    assert len(part.logprobs) == response.usage.output_tokens
    assert b"".join(bytes(each.bytes) for each in part.logprobs).decode().startswith(part.text)
    assert all(each.token == each.top_logprobs[0].token and len(each.top_logprobs) == 2 for each in part.logprobs)


def test_a_conversation_comes_back_as_the_items_that_were_told(server: Server, client: OpenAI) -> None:
    first = client.responses.create(**ASK)
    history: list[Any] = [{"role": "user", "content": ASK["input"]}, *[item.model_dump() for item in first.output]]
    asked: list[Any] = [*history, {"role": "user", "content": "And 3 + 4?"}]
    second = client.responses.create(**{**ASK, "input": asked})
    chat = client.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "user", "content": ASK["input"]},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And 3 + 4?"},
        ],
        max_completion_tokens=24,
        temperature=0,
    )
    assert second.output_text == chat.choices[0].message.content
    counted = client.responses.input_tokens.count(model="smollm2", input=asked)
    assert second.usage is not None
    assert counted.input_tokens == second.usage.input_tokens


def test_the_client_parses_answers_into_models(client: OpenAI) -> None:
    answer = client.responses.parse(**{**ASK, "max_output_tokens": 60}, text_format=Cat)
    assert isinstance(answer.output_parsed, Cat)
    with client.responses.stream(**{**ASK, "max_output_tokens": 60}, text_format=Cat) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_response().output_parsed == answer.output_parsed
    assert {"response.output_text.delta", "response.output_text.done", "response.completed"} <= kinds


def test_a_json_object_is_one(client: OpenAI) -> None:
    answer = client.responses.create(**{**ASK, "max_output_tokens": 200}, text={"format": {"type": "json_object"}})
    assert answer.status == "incomplete" or isinstance(json.loads(answer.output_text), dict)
    assert answer.output_text.lstrip().startswith("{")


def test_the_asynchronous_client_reads_streams(server: Server) -> None:
    async def ask() -> tuple[str, str, str]:
        async with server.openai_async() as client:
            created = await client.responses.create(**ASK)
            async with client.responses.stream(**ASK) as stream:
                text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
            events = await client.responses.create(**ASK, stream=True)
            raw = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
        return created.output_text, text, raw

    created, text, raw = asyncio.run(ask())
    assert created == text == raw


def test_nothing_is_stored_and_who_asks_for_it_is_told_so(client: OpenAI) -> None:
    response = client.responses.create(**{**ASK, "max_output_tokens": 1})
    for ask in (
        lambda: client.responses.retrieve(response.id),
        lambda: client.responses.delete(response.id),
        lambda: client.responses.cancel(response.id),
        lambda: client.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError, match="stores none"):
            ask()
    with pytest.raises(openai.NotFoundError, match="compacts no conversations"):
        client.responses.compact(model="smollm2", input="Hello.")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, None, "stores none"),
        ({"input": []}, None, "an item at least"),
        ({"input": None}, "input", "input"),
        ({"input": "word " * 2000, "truncation": "auto"}, None, "context length"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"background": True}, "background", "wait"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}}, "text.format", "text.f"),
        ({"tools": [{"type": "function"}]}, "tools", "name"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"stop": ["x"] * 100}, "stop", "--max-stop-strings"),
        ({"reasoning": {"effort": 3}}, "reasoning", "effort must be"),
        ({"chat_template": "x"}, "chat_template", "--allow-request-templates"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_carried_out_is_refused_by_name(
    server: Server, fields: dict[str, Any], param: str | None, words: str
) -> None:
    error = refusal(server, **fields)
    assert error["param"] == param
    assert words in error["message"]


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.responses.create(**{**ASK, "model": "gpt-5"})


def test_a_client_that_leaves_ends_its_answer(server: Server) -> None:
    with serving(server.background) as own, own.http() as http:
        body = {**ASK, "max_output_tokens": 400, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/responses", json=body) as answer:
            next(answer.iter_lines())
        until(own.background.is_idle)


def test_reasoning_is_an_item_of_its_own_and_comes_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.front, "answer_format", built_in_format("hermes", "<think> </think>"))
    opened = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>"}]
    fields: dict[str, Any] = {"input": opened, "continue_final_message": True, "thinking_token_budget": 6}
    response = whole(server, **fields, include=["reasoning.encrypted_content", "message.output_text.logprobs"])
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert message.type == "message"
    assert reasoning.content
    assert reasoning.content[0].text
    [part] = message.content
    assert part.type == "output_text"
    assert response.usage is not None
    num_reasoning = response.usage.output_tokens_details.reasoning_tokens
    assert 6 < num_reasoning < response.usage.output_tokens
    assert num_reasoning + len(part.logprobs or []) == response.usage.output_tokens
    check_stream(server, **fields)
    turns = chat_messages(None, [reasoning.model_dump(exclude={"content"}), message.model_dump()])
    assert turns == [{"role": "assistant", "content": part.text, "reasoning_content": reasoning.content[0].text}]
