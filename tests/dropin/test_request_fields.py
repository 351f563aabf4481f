"""Each field of a request is carried out, refused by name, or means nothing."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest
from octavo.server.front import Front
from octavo.server.serving import Serving
from server.conftest import Server

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES: list[Any] = [{"role": "user", "content": "a"}]
SEA = {"prompt": "The sea is", "max_tokens": 6, "temperature": 0}


def ask(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    """An answer that is no error."""
    with server.http() as http:
        answer = http.post(path, json=({"messages": MESSAGES} if path == CHAT else {"prompt": "a"}) | fields)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def text_of(server: Server, **fields: Any) -> str:
    text: str = ask(server, COMPLETE, **fields)["choices"][0]["text"]
    return text


def refusal(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    """The error of a request that is refused."""
    with server.http() as http:
        answer = http.post(path, json=({"messages": MESSAGES} if path == CHAT else {"prompt": "a"}) | fields)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize("value", [0, {}, [], "x", True, 1.5, {"width": 2}, None], ids=str)
@pytest.mark.parametrize("name", ["beams", "own_seed", "for_engine", "__class__"])
def test_a_field_that_nobody_knows_is_ignored(server: Server, path: str, name: str, value: Any) -> None:
    ask(server, path, max_tokens=1, **{name: value})


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("response_format", {}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("audio", {}),
        ("mirostat", 2),
        ("mirostat", True),
        ("min_length", 5),
        ("max_length", 5),
        ("typical_p", 0.5),
        ("watermark", True),
        ("no_repeat_ngram_size", 2),
        ("lora_path", "x"),
        ("input_ids", [1]),
        ("vllm_xargs", {"a": 1}),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(
    server: Server, path: str, name: str, value: Any
) -> None:
    error = refusal(server, path, max_tokens=1, **{name: value})
    assert error["code"] == "unsupported_parameter"
    assert error["param"] == name
    assert error["message"].startswith(name)


def test_fields_of_the_other_endpoint_are_refused(server: Server) -> None:
    assert refusal(server, COMPLETE, messages=MESSAGES)["param"] == "messages"
    assert refusal(server, CHAT, prompt="a")["param"] == "prompt"


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_a_field_that_asks_for_nothing_is_taken(server: Server, path: str) -> None:
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "cache_prompt": True}
    neutral = {
        "repeat_penalty": 1,
        "grammar": None,
        "mirostat": 0,
        "watermark": False,
        "do_sample": True,
        "priority": 0,
    }
    ask(server, path, max_tokens=1, **harmless, **neutral, response_format={"type": "text"}, tool_choice="none")


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_null_is_as_if_a_field_was_not_there(server: Server, path: str) -> None:
    description: dict[str, Any]
    with server.http() as http:
        description = http.get("/openapi.json").json()
    name = "ChatBody" if path == CHAT else "CompletionBody"
    fields = description["components"]["schemas"][name]["properties"].keys() - {"messages", "prompt", "max_tokens"}
    assert len(fields) > 30
    ask(server, path, max_tokens=1, **dict.fromkeys(fields))
    ask(server, COMPLETE, max_tokens=None)


def test_a_whole_number_may_be_written_with_a_point(server: Server) -> None:
    counts = {
        "max_tokens": 8.0,
        "n": 2.0,
        "seed": 3.0,
        "top_k": 5.0,
        "min_tokens": 8.0,
        "logprobs": 1.0,
        "best_of": 2.0,
    }
    assert ask(server, COMPLETE, **counts)["usage"]["completion_tokens"] == 16
    ids = {"stop_token_ids": [5.0], "allowed_token_ids": [504.0, 505], "truncate_prompt_tokens": 3.0}
    assert ask(server, COMPLETE, max_tokens=1, **ids)["choices"]
    assert text_of(server, **SEA | {"prompt": [504.0, 3426, 314.0]}) == text_of(server, **SEA)
    assert text_of(server, **SEA | {"prompt": [[504, 3426, 314.0]]}) == text_of(server, **SEA)
    assert ask(server, CHAT, max_completion_tokens=2.0, logprobs=True, top_logprobs=2.0)["choices"]


@pytest.mark.parametrize("value", [8.5, "8", True, 1e400])
def test_what_is_no_whole_number_is_refused(server: Server, value: Any) -> None:
    for name in ("n", "top_k", "seed", "best_of"):
        content = f'{{"prompt": "a", "{name}": {str(value).lower() if value is True else repr(value)}}}'
        with server.http() as http:
            answer = http.post(
                COMPLETE,
                content=content.replace("'", '"').replace("inf", "1e400").encode(),
                headers={"content-type": "application/json"},
            )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == name


def test_any_64_bit_seed_is_taken_and_minus_one_is_none(server: Server) -> None:
    drawn = {"max_tokens": 6, "temperature": 1.0}
    for seed in (-(2**63), -2, 0, 2**63 - 1):
        assert text_of(server, **drawn, seed=seed) == text_of(server, **drawn, seed=seed)
    assert len({text_of(server, **drawn, seed=-1) for _ in range(4)}) > 1
    for seed in (2**63, -(2**63) - 1, 2**64):
        assert refusal(server, COMPLETE, seed=seed)["param"] == "seed"


def test_top_p_of_zero_is_greedy(server: Server) -> None:
    greedy = text_of(server, **SEA)
    for top_p in (0, 0.0, 1e-300):
        assert text_of(server, **SEA | {"temperature": 1.5, "top_p": top_p}) == greedy


def test_max_tokens_is_cut_to_what_fits(server: Server) -> None:
    for fields in ({}, {"max_tokens": 16}, {"max_tokens": 10**30}):
        answer = ask(server, COMPLETE, prompt=[504] * 500, ignore_eos=True, **fields)
        assert answer["usage"]["completion_tokens"] == 12
        assert answer["choices"][0]["finish_reason"] == "length"
    long = [{"role": "user", "content": " The" * 460}]
    answer = ask(server, CHAT, messages=long, max_tokens=4096, ignore_eos=True)
    assert answer["usage"]["total_tokens"] == 512


@pytest.mark.parametrize("num_tokens", [512, 513, 100_000])
def test_a_prompt_without_room_for_a_token_is_over_the_context(server: Server, num_tokens: int) -> None:
    for prompt in ([504] * num_tokens, [[504] * num_tokens], " The" * num_tokens):
        error = refusal(server, COMPLETE, prompt=prompt)
        assert error["code"] == "context_length_exceeded"
        assert "This model's maximum context length is 512 tokens" in error["message"]
    assert ask(server, COMPLETE, prompt=[504] * 511)["usage"]["completion_tokens"] == 1


def test_an_empty_model_name_is_the_served_model(server: Server) -> None:
    assert ask(server, CHAT, model="", max_tokens=1)["model"] == "smollm2"
    assert ask(server, COMPLETE, model="", max_tokens=1)["model"] == "smollm2"


def test_without_a_prompt_a_document_begins(server: Server) -> None:
    """OpenAI's default is the token <|endoftext|>."""
    begun = text_of(server, **SEA | {"prompt": "<|endoftext|>"})
    with server.http() as http:
        for body in ({"max_tokens": 6, "temperature": 0}, {"prompt": None, "max_tokens": 6, "temperature": 0}):
            assert http.post(COMPLETE, json=body).json()["choices"][0]["text"] == begun


def test_bad_words_are_not_generated(server: Server) -> None:
    greedy = text_of(server, **SEA)
    first, second, third = greedy.split()[:3]
    assert first not in text_of(server, **SEA, bad_words=[first]).split()
    assert text_of(server, **SEA, bad_words=[f"{second} {third}"]).split()[:2] == [first, second]
    assert f"{second} {third}" not in text_of(server, **SEA, bad_words=[f"{second} {third}"])
    assert text_of(server, **SEA, bad_words=["unheard of"]) == greedy
    chat = ask(server, CHAT, max_tokens=4, temperature=0)["choices"][0]["message"]["content"]
    word = chat.split()[0]
    assert not ask(server, CHAT, max_tokens=4, temperature=0, bad_words=[word])["choices"][0]["message"][
        "content"
    ].startswith(word)


def test_only_allowed_tokens_are_generated(server: Server) -> None:
    assert (
        ask(server, COMPLETE, max_tokens=5, allowed_token_ids=[504], return_token_ids=True)["choices"][0]["token_ids"]
        == [504] * 5
    )


def test_token_ids_are_told_where_they_are_asked_for(server: Server) -> None:
    choice = ask(server, COMPLETE, **SEA, return_token_ids=True)["choices"][0]
    assert choice["prompt_token_ids"] == server.front.tokenizer.encode("The sea is")
    assert server.front.tokenizer.decode(choice["token_ids"]) == choice["text"]
    chat = ask(server, CHAT, max_tokens=3, return_token_ids=True)
    assert len(chat["prompt_token_ids"]) == chat["usage"]["prompt_tokens"]
    assert len(chat["choices"][0]["token_ids"]) == 3
    assert "token_ids" not in ask(server, CHAT, max_tokens=3)["choices"][0]


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_a_stream_tells_the_token_ids_of_the_whole_answer(server: Server, path: str) -> None:
    client, asked = server.openai(), {"return_token_ids": True}
    chunks: list[Any]
    if path == CHAT:
        chunks = list(
            client.chat.completions.create(
                model="smollm2", messages=MESSAGES, max_tokens=4, seed=1, stream=True, extra_body=asked
            )
        )
    else:
        chunks = list(
            client.completions.create(model="smollm2", prompt="a", max_tokens=4, seed=1, stream=True, extra_body=asked)
        )
    whole = ask(server, path, max_tokens=4, seed=1, return_token_ids=True)
    told = [token for chunk in chunks for token in chunk.choices[0].model_extra.get("token_ids") or []]
    assert told == whole["choices"][0]["token_ids"]
    first = chunks[0].model_extra if path == CHAT else chunks[0].choices[0].model_extra
    assert first["prompt_token_ids"] == (whole if path == CHAT else whole["choices"][0])["prompt_token_ids"]


def test_prompts_are_cut_at_the_side_that_is_asked_for(server: Server) -> None:
    ids = list(range(500, 520))
    cut = {"truncate_prompt_tokens": 5, "return_token_ids": True, "max_tokens": 1}
    assert ask(server, COMPLETE, prompt=ids, **cut)["choices"][0]["prompt_token_ids"] == ids[-5:]
    right = ask(server, COMPLETE, prompt=ids, truncation_side="right", **cut)
    assert right["choices"][0]["prompt_token_ids"] == ids[:5]
    assert ask(server, CHAT, **cut)["usage"]["prompt_tokens"] == 5
    most = ask(server, COMPLETE, prompt=[504] * 2000, max_tokens=12, truncate_prompt_tokens=-1)
    assert most["usage"]["prompt_tokens"] == 500
    long = ask(server, COMPLETE, prompt="a" * 200_000, truncate_prompt_tokens=3, max_tokens=1)
    assert long["usage"]["prompt_tokens"] == 3


def test_a_chat_echoes_the_turn_that_the_assistant_has_begun(server: Server) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "1, 2,"}]
    asked = {"messages": turns, "max_tokens": 2, "temperature": 0}
    plain = ask(server, CHAT, **asked)["choices"][0]["message"]["content"]
    assert ask(server, CHAT, **asked, echo=True)["choices"][0]["message"]["content"] == "1, 2," + plain
    assert ask(server, CHAT, max_tokens=2, temperature=0, echo=True) != {}


def test_choices_say_what_stopped_them_and_answers_what_made_them(server: Server) -> None:
    assert ask(server, COMPLETE, **SEA, stop=[" of"])["choices"][0]["stop_reason"] == " of"
    token = server.front.tokenizer.encode(" of")[0]
    chat_like = ask(server, COMPLETE, **SEA, stop_token_ids=[token])["choices"][0]
    assert (chat_like["finish_reason"], chat_like["stop_reason"]) == ("stop", token)
    answer = ask(server, CHAT, max_tokens=1)
    assert answer["choices"][0]["stop_reason"] is None
    assert "smollm2" in answer["system_fingerprint"]
    assert answer["system_fingerprint"].endswith("-float32")


def test_the_fingerprint_tells_quantized_weights_from_others(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    serving: Serving = server.app.state.serving
    plain = serving.system_fingerprint
    monkeypatch.setattr(serving.front, "ready", structs.replace(serving.front.ready, weights="int8"))
    assert serving.system_fingerprint == f"{plain}-int8"


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_usage_comes_with_every_chunk_where_that_is_asked_for(server: Server, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"max_tokens": 4, "stream": True, "ignore_eos": True, "stream_options": options}
    body |= {"messages": MESSAGES} if path == CHAT else {"prompt": "a"}
    with server.http() as http, http.stream("POST", path, json=body) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in events[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert len(set(counts)) > 1


def test_servers_without_a_seed_answer_differently(server: Server) -> None:
    front, drawn = server.front, SamplingParams(max_tokens=1)
    seeds = set()
    for seed in (None, None, 7, 7):
        requests: list[EngineRequest] = []
        own = Front(SimpleNamespace(submit=requests.append), front.tokenizer, front.ready, seed)  # type: ignore[arg-type]
        own.generate("a", [1], asyncio.run(own.prepare(drawn)))
        seeds.add(requests[0].seed)
    assert len(seeds) == 3
