"""pydantic-ai's agents on its three models that speak to a server like this one."""

from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from anthropic import AsyncAnthropic
from anthropic.types.beta import BetaMessageParam
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, RunContext, ToolOutput
from pydantic_ai.messages import ToolReturnPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from clients.weather import ASK, Report, Sky

pytestmark = [pytest.mark.clients, pytest.mark.anyio]

APIS = ["chat", "responses", "messages"]
LIMITS: Any = {"max_tokens": 150, "temperature": 0, "parallel_tool_calls": False}


@pytest.fixture(params=APIS)
def model(request: pytest.FixtureRequest, openai_client: AsyncOpenAI, anthropic_client: AsyncAnthropic) -> Any:
    match request.param:
        case "chat":
            return OpenAIChatModel("smollm2", provider=OpenAIProvider(openai_client=openai_client))
        case "responses":
            return OpenAIResponsesModel("smollm2", provider=OpenAIProvider(openai_client=openai_client))
    form: Any = BetaMessageParam
    if not isinstance(form, type):
        pytest.skip("pydantic-ai makes messages of a type that this version of the anthropic package has otherwise")
    return AnthropicModel("smollm2", provider=AnthropicProvider(anthropic_client=anthropic_client))


def agent(model: Any, **settings: Any) -> Any:
    return Agent(model, **{"model_settings": LIMITS, "retries": 0, **settings})


async def test_an_agent_answers_in_text_whole_and_streamed(model: Any) -> None:
    asked = agent(model, model_settings={"max_tokens": 12, "temperature": 0})
    whole = await asked.run("Say hello.")
    async with asked.run_stream("Say hello.") as run:
        pieces = [piece async for piece in run.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == whole.output != ""
    assert len(pieces) > 1


async def test_a_tool_fills_in_the_output_whole_and_streamed(model: Any) -> None:
    asked = agent(model, output_type=ToolOutput(Report, name="report"))
    whole = await asked.run(ASK)
    assert isinstance(whole.output, Report)
    async with asked.run_stream(ASK) as run:
        assert await run.get_output() == whole.output


async def test_the_answer_itself_is_the_output(model: Any) -> None:
    if isinstance(model, AnthropicModel):
        pytest.skip("pydantic-ai asks for it of models of Anthropic's only")
    assert isinstance((await agent(model, output_type=NativeOutput(Report)).run(ASK)).output, Report)


async def test_an_agent_calls_its_tool_and_is_told_what_came_of_it(model: Any) -> None:
    """The tool is called because it must be; then the output is."""

    def settings(context: RunContext[None]) -> Any:
        return {**LIMITS, "tool_choice": ["look_up"]} if context.run_step == 1 else LIMITS

    looked_up = []

    def look_up(sky: Sky) -> str:
        """Say in which cities the sky is like that."""
        looked_up.append(sky)
        return "In Oslo."

    asked = agent(model, tools=[look_up], output_type=ToolOutput(Sky, name="answer"), model_settings=settings)
    run = await asked.run(ASK)
    assert looked_up
    assert isinstance(run.output, Sky)
    [returned] = [part for message in run.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)][
        :1
    ]
    assert returned.content == "In Oslo."
