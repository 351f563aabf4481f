"""openai-agents' agents on its model of chat completions and on that of responses, its default."""

import json
from typing import Any, Literal

import pytest

agents = pytest.importorskip("agents")

from openai import AsyncOpenAI

from clients.weather import ASK, Report

pytestmark = [pytest.mark.clients, pytest.mark.anyio]

MODELS = ["chat", "responses"]


@pytest.fixture(autouse=True)
def _untraced() -> None:
    agents.set_tracing_disabled(True)


def agent(client: AsyncOpenAI, api: str, **settings: Any) -> Any:
    kind = agents.OpenAIChatCompletionsModel if api == "chat" else agents.OpenAIResponsesModel
    limits = {"temperature": 0, "max_tokens": 150, **settings.pop("limits", {})}
    return agents.Agent(
        name="Forecaster",
        model=kind(model="smollm2", openai_client=client),
        model_settings=agents.ModelSettings(**limits),
        **settings,
    )


async def streamed(asked: Any, ask: str = ASK) -> tuple[Any, list[Any]]:
    """A streamed run's final output, and the events of it."""
    run = agents.Runner.run_streamed(asked, ask)
    events = [event async for event in run.stream_events()]
    return run.final_output, events


@pytest.mark.parametrize("api", MODELS)
async def test_an_agent_answers_in_text_whole_and_streamed(openai_client: AsyncOpenAI, api: str) -> None:
    asked = agent(openai_client, api, instructions="Be brief.")
    whole = (await agents.Runner.run(asked, "Say hello.")).final_output
    output, events = await streamed(asked, "Say hello.")
    deltas = [event.data.delta for event in events if getattr(event, "data", None) and "text.delta" in event.data.type]
    assert output == "".join(deltas) == whole != ""


@pytest.mark.parametrize("api", MODELS)
async def test_the_output_is_of_its_type_whole_and_streamed(openai_client: AsyncOpenAI, api: str) -> None:
    asked = agent(openai_client, api, output_type=Report)
    whole = (await agents.Runner.run(asked, ASK)).final_output
    assert isinstance(whole, Report)
    assert (await streamed(asked))[0] == whole


def look_up(city: Literal["Oslo", "Rome"], days: Literal[1, 2]) -> str:
    """Say how the weather in a city will be for some days."""
    return json.dumps([city, days])


LOOK_UP = agents.function_tool(look_up)


@pytest.mark.parametrize("api", MODELS)
async def test_a_tool_that_must_be_called_ends_the_run(openai_client: AsyncOpenAI, api: str) -> None:
    limits = {"tool_choice": "required", "parallel_tool_calls": False}
    asked = agent(openai_client, api, tools=[LOOK_UP], tool_use_behavior="stop_on_first_tool", limits=limits)
    whole = await agents.Runner.run(asked, ASK)
    city, days = json.loads(whole.final_output)
    assert city in ("Oslo", "Rome")
    assert days in (1, 2)
    output, events = await streamed(asked)
    assert output == whole.final_output
    assert [event.name for event in events if event.type == "run_item_stream_event"] == ["tool_called", "tool_output"]


@pytest.mark.parametrize("api", MODELS)
async def test_what_a_tool_gave_goes_back_to_the_model(openai_client: AsyncOpenAI, api: str) -> None:
    """`tool_choice` is reset after the first call, so that the second turn is free to answer."""
    limits = {"tool_choice": "look_up", "parallel_tool_calls": False, "max_tokens": 60}
    run = await agents.Runner.run(agent(openai_client, api, tools=[LOOK_UP], limits=limits), ASK, max_turns=8)
    assert [type(item).__name__ for item in run.new_items][:2] == ["ToolCallItem", "ToolCallOutputItem"]
    assert run.context_wrapper.usage.requests >= 2
