"""/v1/completions and /v1/models through the `openai` package."""

from typing import Any

import pytest
from openai import OpenAI

from server.conftest import Server

ASK: dict[str, Any] = {"model": "smollm2", "prompt": "The sea is", "max_tokens": 8, "seed": 3}


def test_a_completion_has_the_shape_of_openai(client: OpenAI) -> None:
    answer = client.completions.create(**ASK)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "smollm2")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 8, 11)


def test_sixteen_tokens_are_the_default(client: OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="One, two,", temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_token_ids_mean_what_their_text_means(client: OpenAI, server: Server) -> None:
    token_ids = server.front.tokenizer.encode("The sea is")
    by_text = client.completions.create(**ASK).choices[0].text
    assert client.completions.create(**ASK | {"prompt": token_ids}).choices[0].text == by_text
    assert client.completions.create(**ASK | {"prompt": [token_ids]}).choices[0].text == by_text


def test_several_prompts_with_several_answers_are_numbered_through(client: OpenAI) -> None:
    answer = client.completions.create(**ASK | {"prompt": ["The sea is", "One, two,"], "n": 2})
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    second = client.completions.create(**ASK | {"prompt": "One, two,", "n": 2})
    assert [choice.text for choice in answer.choices[2:]] == [choice.text for choice in second.choices]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3 + second.usage.prompt_tokens


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": ["The sea is", "One, two,"], "n": 2},
        {"echo": True},
        {"logprobs": 2},
        {"echo": True, "logprobs": 2, "prompt": ["The sea is", "One, two,"]},
        {"stop": ["e"]},
        {"echo": True, "max_tokens": 0, "logprobs": 1},
    ],
    ids=str,
)
def test_a_stream_assembled_is_the_answer_sent_whole(client: OpenAI, options: dict[str, Any]) -> None:
    whole = client.completions.create(**ASK | options)
    texts = [""] * len(whole.choices)
    reasons: list[str | None] = [None] * len(whole.choices)
    logprobs: list[dict[str, list[Any]]] = [{} for _ in whole.choices]
    usage = None
    for chunk in client.completions.create(**ASK | options, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                logprobs[choice.index].setdefault(name, []).extend(values)
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    for streamed, choice in zip(logprobs, whole.choices, strict=True):
        expected = choice.logprobs.model_dump() if choice.logprobs else {}
        for name in ("tokens", "text_offset"):
            assert streamed.get(name) == expected.get(name)


def test_echo_begins_with_the_prompt(client: OpenAI, server: Server) -> None:
    plain = client.completions.create(**ASK).choices[0].text
    assert client.completions.create(**ASK, echo=True).choices[0].text == "The sea is" + plain
    token_ids = server.front.tokenizer.encode("The sea is")
    assert client.completions.create(**ASK | {"prompt": token_ids}, echo=True).choices[0].text == "The sea is" + plain


def test_logprobs_name_tokens_values_candidates_and_offsets(client: OpenAI) -> None:
    choice = client.completions.create(**ASK, echo=True, logprobs=2).choices[0]
    assert choice.logprobs is not None
    logprobs = choice.logprobs.model_dump()
    tokens = logprobs["tokens"]
    assert "".join(tokens) == choice.text
    assert all(
        choice.text[offset:].startswith(token) for token, offset in zip(tokens, logprobs["text_offset"], strict=True)
    )
    assert logprobs["token_logprobs"][0] is None, "nothing comes before the prompt's first token"
    scored = list(zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))[1:]
    assert all(tops[token] == value and 2 <= len(tops) <= 3 for token, value, tops in scored)


def test_a_prompt_is_scored_without_an_answer(client: OpenAI) -> None:
    answer = client.completions.create(**ASK | {"max_tokens": 0}, echo=True, logprobs=0)
    assert answer.choices[0].text == "The sea is"
    assert len(answer.choices[0].logprobs.tokens) == 3
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_the_served_model_is_listed_and_described(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").owned_by == "octavo"


def test_a_served_name_goes_beside_the_models_own(serve: Any) -> None:
    with serve(served_model_name=("house/best",)) as server:
        client = server.openai()
        assert client.models.retrieve("house/best").id == "house/best"
        for name in ("house/best", "smollm2"):
            assert client.completions.create(**ASK | {"model": name, "max_tokens": 1}).model == "house/best"
