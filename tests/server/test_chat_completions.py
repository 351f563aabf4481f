"""/v1/chat/completions through the `openai` package."""

import asyncio
from typing import Any

import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from server.conftest import Server

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me about the sea."}]
ASK: dict[str, Any] = {"model": "smollm2", "messages": MESSAGES, "max_tokens": 6, "seed": 7}


def test_an_answer_has_the_shape_of_openai(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "smollm2")
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"n": 3, "temperature": 0.8},
        {"top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.5},
        {"stop": [" the", "."], "max_tokens": 12},
        {"logprobs": True, "top_logprobs": 3},
        {"logit_bias": {"28": 5.0}},
        {"extra_body": {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2, "min_tokens": 2, "ignore_eos": True}},
    ],
    ids=str,
)
def test_a_stream_assembled_is_the_answer_sent_whole(client: OpenAI, options: dict[str, Any]) -> None:
    whole = client.chat.completions.create(**ASK | options)
    texts = [""] * len(whole.choices)
    logprobs: list[list[Any]] = [[] for _ in whole.choices]
    reasons: list[str | None] = [None] * len(whole.choices)
    for chunk in client.chat.completions.create(**ASK | options, stream=True):
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            logprobs[choice.index] += (choice.logprobs and choice.logprobs.content) or []
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    if options.get("logprobs"):
        assert [[each.token for each in own] for own in logprobs] == [
            [each.token for each in (choice.logprobs and choice.logprobs.content) or []] for choice in whole.choices
        ]


def test_a_stream_begins_with_the_role_and_ends_with_the_usage_asked_for(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_raw_stream_is_events_that_end_with_done(server: Server) -> None:
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"


def test_four_answers_differ_and_count_the_prompt_once(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK | {"n": 4, "temperature": 1.0})
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) == 4
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert answer.usage.prompt_tokens < 60


def test_one_seed_gives_one_answer_and_another_seed_another(client: OpenAI) -> None:
    texts = [client.chat.completions.create(**ASK | {"seed": seed}).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_text_ends_the_answer_before_it(client: OpenAI) -> None:
    full = client.chat.completions.create(**ASK | {"temperature": 0}).choices[0].message.content or ""
    stop = full[len(full) // 2 :][:4]
    answer = client.chat.completions.create(**ASK | {"temperature": 0, "stop": stop}).choices[0]
    assert answer.message.content == full[: full.index(stop)]
    assert answer.finish_reason == "stop"


def test_logprobs_tell_each_token_with_its_bytes_and_the_most_likely_ones(client: OpenAI) -> None:
    [choice] = client.chat.completions.create(**ASK | {"temperature": 0, "logprobs": True, "top_logprobs": 3}).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    assert b"".join(bytes(each.bytes or []) for each in content).decode() == choice.message.content
    for each in content:
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].token == each.token, "greedy takes the most likely"
        assert each.logprob == max(top.logprob for top in each.top_logprobs)


def test_logit_bias_forbids_and_forces_tokens(client: OpenAI, server: Server) -> None:
    [token] = server.front.tokenizer.encode(" sea", add_special_tokens=False)
    answer = client.chat.completions.create(**ASK | {"logit_bias": {str(token): 100}, "max_tokens": 3})
    assert answer.choices[0].message.content == " sea sea sea"


def test_max_completion_tokens_goes_before_its_older_name(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK | {"max_completion_tokens": 3, "max_tokens": 9})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_prompt_logprobs_come_with_an_entry_for_each_prompt_token(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASK | {"extra_body": {"prompt_logprobs": 1}})
    scores = (answer.model_extra or {})["prompt_logprobs"]
    assert answer.usage is not None
    assert len(scores) == answer.usage.prompt_tokens
    assert scores[0] is None
    assert all("logprob" in each for each in scores[1].values())


def test_template_variables_and_text_parts_reach_the_prompt(client: OpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "Tell me about the sea."}]}]
    opened = client.chat.completions.create(**ASK | {"messages": parts})
    unopened = client.chat.completions.create(**ASK | {"extra_body": {"add_generation_prompt": False}})
    assert opened.usage is not None
    assert unopened.usage is not None
    assert opened.choices[0].message.content == client.chat.completions.create(**ASK).choices[0].message.content
    assert unopened.usage.prompt_tokens < opened.usage.prompt_tokens


def test_fields_that_change_nothing_here_are_ignored(client: OpenAI) -> None:
    extra = {"user": "me", "store": False, "metadata": {"a": "b"}, "tool_choice": "none", "brand_new_field": [1]}
    options = {"response_format": {"type": "text"}, "extra_body": extra}
    assert client.chat.completions.create(**ASK | options).choices


def test_the_async_client_streams_many_at_once_and_gets_what_it_gets_alone(server: Server) -> None:
    async def text(client: Any, seed: int) -> str:
        stream = await client.chat.completions.create(**ASK | {"seed": seed, "stream": True})
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def texts() -> list[str]:
        async with server.openai_async() as client:
            return await asyncio.gather(*(text(client, seed) for seed in range(6)))

    alone = [server.openai().chat.completions.create(**ASK | {"seed": seed}) for seed in range(6)]
    assert asyncio.run(texts()) == [answer.choices[0].message.content for answer in alone]
