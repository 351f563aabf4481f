"""The helpers of the openai and anthropic packages: models of pydantic are asked for and come back filled in."""

from typing import Any

import openai
import pytest
from anthropic import Anthropic
from openai import AsyncOpenAI

from clients.weather import ASK, Report, Verdict
from e2e.server_process import Server

pytestmark = [pytest.mark.clients, pytest.mark.anyio]

MESSAGES: Any = [{"role": "user", "content": ASK}]
CHAT: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 150, "temperature": 0}
RESPONSE: dict[str, Any] = {"model": "smollm2", "input": ASK, "max_output_tokens": 150, "temperature": 0}
MESSAGE: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 150}


def messages_client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url.removesuffix("/v1"), api_key="EMPTY", max_retries=0)


async def test_chat_completions_are_parsed_whole_and_streamed(server: Server, openai_client: AsyncOpenAI) -> None:
    whole = server.client.chat.completions.parse(**CHAT, response_format=Report).choices[0].message.parsed
    assert isinstance(whole, Report)
    async with openai_client.chat.completions.stream(**CHAT, response_format=Report) as stream:
        kinds = [event.type async for event in stream]
        streamed = (await stream.get_final_completion()).choices[0].message.parsed
    assert streamed == whole
    assert {"content.delta", "content.done"} <= set(kinds)


def test_calls_of_a_chat_are_parsed(server: Server) -> None:
    tool = openai.pydantic_function_tool(Report)
    named: Any = {"type": "function", "function": {"name": "Report"}}
    answer = server.client.chat.completions.parse(**CHAT, tools=[tool], tool_choice=named)
    [call] = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Report)


async def test_responses_are_parsed_whole_and_streamed(server: Server, openai_client: AsyncOpenAI) -> None:
    whole = server.client.responses.parse(**RESPONSE, text_format=Report).output_parsed
    assert isinstance(whole, Report)
    async with openai_client.responses.stream(**RESPONSE, text_format=Report) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_parsed == whole


def test_calls_of_a_response_are_parsed(server: Server) -> None:
    answer = server.client.responses.parse(
        **RESPONSE,
        tools=[openai.pydantic_function_tool(Report)],
        tool_choice={"type": "function", "name": "Report"},
    )
    [call] = [item for item in answer.output if item.type == "function_call"]
    assert isinstance(call.parsed_arguments, Report)


def test_messages_are_parsed(server: Server) -> None:
    answer = messages_client(server).messages.parse(**MESSAGE, output_format=Verdict)
    assert isinstance(answer.parsed_output, Verdict)
