"""What a model's authors recommend goes into the fields that a request leaves out, and nowhere else."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from octavo.checkpoints.generation_config import SamplingDefaults
from server.conftest import Background, serving

MESSAGES: Any = [{"role": "user", "content": "Tell me about the sea."}]
GREEDY = SamplingDefaults({"temperature": 0.0, "repetition_penalty": 1.3}, max_tokens=12, source="its file")


@pytest.fixture(scope="module")
def greedy_client(background: Background) -> Iterator[OpenAI]:
    """Of a server whose model's authors recommend greedy answers of up to 12 tokens."""
    with serving(background, sampling_defaults=GREEDY) as server:
        yield server.openai()


def completed(client: OpenAI, **fields: Any) -> str:
    text: str = client.completions.create(model="smollm2", prompt="The sea is", **fields).choices[0].text
    return text


def answered(client: OpenAI, **fields: Any) -> str:
    answer: Any = client.chat.completions.create(model="smollm2", messages=MESSAGES, **fields)
    text: str = answer.choices[0].message.content
    return text


def test_what_a_request_leaves_out_is_the_models(greedy_client: OpenAI, client: OpenAI) -> None:
    own: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "extra_body": {"repetition_penalty": 1.3}}
    for ask in (completed, answered):
        assert ask(greedy_client, seed=1) == ask(greedy_client, seed=2) == ask(client, **own)


def test_what_a_request_brings_is_its_own(greedy_client: OpenAI, client: OpenAI) -> None:
    brought: dict[str, Any] = {"temperature": 1, "seed": 3, "max_tokens": 8, "extra_body": {"repetition_penalty": 1}}
    for ask in (completed, answered):
        assert ask(greedy_client, **brought) == ask(client, **brought)
    nulls: dict[str, Any] = {"extra_body": {"temperature": None, "repetition_penalty": None}}
    assert answered(greedy_client, seed=1, **nulls) == answered(greedy_client, seed=2)


@pytest.mark.parametrize("asked", [{}, {"max_tokens": 40}, {"max_tokens": 12}])
def test_no_answer_is_longer_than_the_model_bounds_it(greedy_client: OpenAI, asked: dict[str, int]) -> None:
    for create, prompt in [
        (greedy_client.completions.create, {"prompt": "One, two, three, four,"}),
        (greedy_client.chat.completions.create, {"messages": MESSAGES}),
    ]:
        answer: Any = create(model="smollm2", extra_body={"ignore_eos": True}, **prompt, **asked)  # type: ignore[operator]
        assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (12, "length")


def test_a_least_length_over_the_bound_is_refused_with_its_source(greedy_client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"min_tokens=13 is over the 12 .*max_new_tokens in its file"):
        completed(greedy_client, max_tokens=20, extra_body={"min_tokens": 13})


def test_a_beam_search_takes_no_defaults_of_drawing(greedy_client: OpenAI, client: OpenAI) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "n": 2, "extra_body": {"use_beam_search": True}}
    penalty: dict[str, Any] = {"use_beam_search": True, "repetition_penalty": 1.3}
    assert completed(greedy_client, **fields) == completed(client, **fields | {"extra_body": penalty})
