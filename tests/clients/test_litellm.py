"""litellm's own code against a server: what it makes of answers, and of refusals."""

import os
from typing import Any

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch a list of prices
litellm = pytest.importorskip("litellm")

from e2e.server_process import Server

pytestmark = pytest.mark.clients

HELLO = [{"role": "user", "content": "Say hello."}]
CALLED = [
    {"role": "user", "content": "What is the weather in Oslo?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
]


def complete(server: Server, **arguments: Any) -> Any:
    given = {"model": "hosted_vllm/smollm2", "api_base": server.url, "api_key": "EMPTY", "temperature": 0, **arguments}
    return litellm.completion(**given)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_chat_and_its_stream_say_the_same(server: Server, provider: str) -> None:
    asked = {"model": f"{provider}/smollm2", "messages": HELLO, "max_tokens": 12}
    answer = complete(server, **asked)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in complete(server, stream=True, **asked))
    assert answer.choices[0].message.content == streamed != ""
    assert answer.usage.completion_tokens <= 12


def test_a_prompt_over_the_context_is_recognised(server: Server) -> None:
    with pytest.raises(litellm.ContextWindowExceededError, match="maximum context length is 1024 tokens"):
        complete(server, messages=[{"role": "user", "content": "word " * 2000}])


def test_a_tool_calls_turn_can_be_sent_back(server: Server) -> None:
    assert complete(server, messages=CALLED, max_tokens=4).usage.completion_tokens > 0


def test_an_unknown_model_is_not_found(server: Server) -> None:
    with pytest.raises(litellm.NotFoundError):
        complete(server, model="openai/other", messages=HELLO)
