"""/v1/messages through the `anthropic` package."""

import asyncio
import json
from typing import Any, Literal

import anthropic
import jsonschema
import pytest
from anthropic import Anthropic, AsyncAnthropic, beta_tool

from server.conftest import PATIENCE_S, Server
from server.test_tools import ADD

ASK: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 12,
    "messages": [{"role": "user", "content": "Tell me about the sea."}],
    "extra_body": {"seed": 3},
}
TOOL: dict[str, Any] = {"name": "add", "description": "Add two numbers.", "input_schema": ADD}


@pytest.fixture(scope="module")
def anthropic_client(server: Server) -> Anthropic:
    return Anthropic(api_key="EMPTY", base_url=server.url, max_retries=0, timeout=PATIENCE_S)


def test_an_answer_has_the_shape_of_anthropic(anthropic_client: Anthropic) -> None:
    answer = anthropic_client.messages.create(**ASK)
    assert answer.id.startswith("msg_")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "smollm2")
    assert [block.type for block in answer.content] == ["text"]
    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 12
    again = anthropic_client.messages.create(**ASK)
    assert again.content == answer.content
    assert (again.usage.cache_read_input_tokens or 0) > 0
    assert again.usage.input_tokens + (again.usage.cache_read_input_tokens or 0) == answer.usage.input_tokens + (
        answer.usage.cache_read_input_tokens or 0
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop_sequences": [" the"], "max_tokens": 40},
        {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 60},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "add"}, "max_tokens": 22},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_a_stream_assembled_is_the_answer_sent_whole(anthropic_client: Anthropic, options: dict[str, Any]) -> None:
    whole = anthropic_client.messages.create(**ASK | options)
    with anthropic_client.messages.stream(**ASK | options) as stream:
        assembled = stream.get_final_message()

    def told(message: Any) -> Any:
        return [block.model_dump(exclude={"id", "parsed_output"}) for block in message.content]

    assert told(assembled) == told(whole)
    assert (assembled.stop_reason, assembled.stop_sequence) == (whole.stop_reason, whole.stop_sequence)
    assert assembled.usage.output_tokens == whole.usage.output_tokens


def test_a_call_that_must_be_made_conforms_and_its_result_is_taken(anthropic_client: Anthropic) -> None:
    asked = {**ASK, "tools": [TOOL], "max_tokens": 60}
    choice: Any = {"type": "tool", "name": "add", "disable_parallel_tool_use": True}
    answer = anthropic_client.messages.create(**asked, tool_choice=choice)
    [call] = answer.content
    assert call.type == "tool_use"
    assert call.id.startswith("toolu_")
    assert answer.stop_reason == "tool_use"
    jsonschema.validate(call.input, ADD)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "5"}
    history = [
        *ASK["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    assert anthropic_client.messages.create(**{**asked, "messages": history}).content


def test_a_last_message_of_the_assistant_is_gone_on_with(anthropic_client: Anthropic) -> None:
    history = [*ASK["messages"], {"role": "assistant", "content": "The sea is"}]
    answer = anthropic_client.messages.create(**{**ASK, "messages": history, "extra_body": {"temperature": 0}})
    [block] = answer.content
    assert block.type == "text"
    assert block.text[:1] in " ,"


def test_a_schema_is_kept_to(anthropic_client: Anthropic) -> None:
    wanted = {"format": {"type": "json_schema", "schema": ADD}}
    answer = anthropic_client.messages.create(**{**ASK, "max_tokens": 60, "output_config": wanted})
    [block] = answer.content
    assert block.type == "text"
    jsonschema.validate(json.loads(block.text), ADD)


def test_tokens_are_counted_as_the_prompt_has_them(anthropic_client: Anthropic) -> None:
    asked = {"model": "smollm2", "messages": ASK["messages"], "system": "Be brief.", "tools": [TOOL]}
    counted = anthropic_client.messages.count_tokens(**asked).input_tokens
    usage = anthropic_client.messages.create(**asked, max_tokens=1).usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_billing_line_does_not_defeat_the_prefix_cache(anthropic_client: Anthropic) -> None:
    instructions = "You know everything about the sea, its fish, its ships and its storms. Answer briefly, in verse."
    for number in range(2):
        system: Any = [
            {"type": "text", "text": f"x-anthropic-billing-header: cch={number};"},
            {"type": "text", "text": instructions},
        ]
        usage = anthropic_client.messages.create(**ASK, system=system).usage
    assert (usage.cache_read_input_tokens or 0) >= 16


def test_the_models_are_listed_in_a_form_that_this_client_reads(anthropic_client: Anthropic) -> None:
    [model] = anthropic_client.models.list()
    assert (model.id, model.type, model.display_name) == ("smollm2", "model", "smollm2")
    assert model.created_at == anthropic_client.models.retrieve("smollm2").created_at


def test_errors_are_those_of_anthropic(anthropic_client: Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        anthropic_client.messages.create(**{**ASK, "model": "claude"})
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError) as wrong:
        anthropic_client.messages.create(**ASK, extra_headers={}, stop_sequences=[""])
    assert "stop_sequences" in wrong.value.message
    with server.http() as http:
        bodies: list[Any] = [{**ASK, "min_p": 0.1}, {"messages": []}, {"messages": 3, "max_tokens": 1}, []]
        for body in bodies:
            answer = http.post("/v1/messages", json=body)
            assert answer.status_code == 400
            assert answer.json()["type"] == "error"
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_the_asynchronous_client_streams_the_same(server: Server) -> None:
    async def asked() -> tuple[str, Any]:
        client = AsyncAnthropic(api_key="EMPTY", base_url=server.url, max_retries=0, timeout=PATIENCE_S)
        async with client.messages.stream(**ASK) as stream:
            text = "".join([piece async for piece in stream.text_stream])
        return text, await client.messages.create(**ASK)

    text, whole = asyncio.run(asked())
    assert [block.text for block in whole.content if block.type == "text"] == [text]


def test_the_tool_runner_of_the_client_goes_on_without_a_stored_conversation(anthropic_client: Anthropic) -> None:
    """It asks for one, and sends all messages once it is told that there is none."""
    looked_up = []

    @beta_tool
    def look_up(sky: Literal["clear", "cloudy"]) -> str:
        """Say in which cities the sky is like that."""
        looked_up.append(sky)
        return "In Oslo."

    tokens = []
    for message in anthropic_client.beta.messages.tool_runner(
        model="smollm2",
        max_tokens=60,
        messages=[{"role": "user", "content": "Where is the sky clear?"}],
        tools=[look_up],
        tool_choice={"type": "tool", "name": "look_up"},
        max_iterations=2,
    ):
        assert message.stop_reason == "tool_use"
        tokens.append(message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0))
    assert len(looked_up) >= 1
    assert tokens[1] > tokens[0]  # the call and what it gave are in the second prompt
