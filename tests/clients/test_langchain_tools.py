"""langchain's structured output and tools, over chat completions, responses and messages."""

from collections.abc import Callable
from typing import Any

import pytest

langchain_openai = pytest.importorskip("langchain_openai")
langchain_anthropic = pytest.importorskip("langchain_anthropic")
langchain_agents = pytest.importorskip("langchain.agents")

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from clients.weather import ASK, Report, Sky, Verdict
from e2e.server_process import Server

pytestmark = pytest.mark.clients

APIS = ["chat", "responses", "messages"]


def chat(server: Server, api: str, **settings: Any) -> Any:
    given: dict[str, Any] = {"model": "smollm2", "api_key": "EMPTY", "max_retries": 0, "max_tokens": 150, **settings}
    if api == "messages":
        return langchain_anthropic.ChatAnthropic(base_url=server.url.removesuffix("/v1"), **given)
    return langchain_openai.ChatOpenAI(
        base_url=server.url, temperature=0, use_responses_api=api == "responses", **given
    )


@tool
def look_up(sky: Sky) -> str:
    """Say in which cities the sky is like that."""
    return f"It is {sky.value} in Oslo."


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_an_answer_and_its_stream_say_the_same(server: Server, api: str) -> None:
    model = chat(server, api, max_tokens=12)
    answer = model.invoke("Say hello.")
    assert answer.text == "".join(chunk.text for chunk in model.stream("Say hello.")) != ""
    assert 0 < answer.usage_metadata["output_tokens"] <= 12


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("api", APIS)
def test_structured_output_is_of_its_type(server: Server, api: str, method: str) -> None:
    wanted = Verdict if api == "messages" else Report
    assert isinstance(chat(server, api).with_structured_output(wanted, method=method).invoke(ASK), wanted)


def test_json_mode_gives_a_json_object(server: Server) -> None:
    found = chat(server, "chat").with_structured_output(None, method="json_mode").invoke('Write {"city": "Oslo"}.')
    assert isinstance(found, dict)


def bound_any(model: Any) -> Any:
    return model.bind_tools([look_up], tool_choice="any", parallel_tool_calls=False)


def bound_by_name(model: Any) -> Any:
    return model.bind_tools([look_up], tool_choice="look_up", parallel_tool_calls=False)


@pytest.mark.parametrize("bound", [bound_any, bound_by_name])
@pytest.mark.parametrize("api", APIS)
def test_a_tool_that_must_be_called_is_and_its_stream_adds_up(
    server: Server, api: str, bound: Callable[[Any], Any]
) -> None:
    model = bound(chat(server, api))
    answer = model.invoke(ASK)
    [call] = answer.tool_calls
    assert call["name"] == "look_up"
    assert look_up.invoke(call["args"]).endswith("in Oslo.")
    assert not answer.invalid_tool_calls
    first, *others = model.stream(ASK)
    for chunk in others:
        first += chunk
    assert [each["args"] for each in first.tool_calls] == [call["args"]]


@pytest.mark.parametrize("api", APIS)
def test_a_call_and_what_it_gave_can_be_sent_back(server: Server, api: str) -> None:
    called = bound_any(chat(server, api)).invoke(ASK)
    [call] = called.tool_calls
    result = ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])
    answer = chat(server, api, max_tokens=4).invoke([HumanMessage(ASK), called, result])
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] > 30


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_an_agent_with_a_response_format_gives_one(server: Server, api: str) -> None:
    strategy = langchain_agents.structured_output.ProviderStrategy(Report)
    agent = langchain_agents.create_agent(chat(server, api), tools=[], response_format=strategy)
    given = agent.invoke({"messages": [HumanMessage(ASK)]}, {"recursion_limit": 6})
    assert isinstance(given["structured_response"], Report)
