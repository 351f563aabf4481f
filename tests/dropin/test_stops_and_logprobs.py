"""Stops that spell special tokens, and log-probabilities of tokens that are no text."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.config import EngineConfig
from server.conftest import Server, running_engine, serving

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "a"}]
START = "<|im_start|>"
ALWAYS_START = {"logit_bias": {"1": 100}, "max_tokens": 8}
"""smollm2's token 1 is <|im_start|>."""


def post(server: Server, path: str, **fields: Any) -> dict[str, Any]:
    with server.http() as http:
        answer = http.post(path, json=({"messages": MESSAGES} if path == CHAT else {"prompt": "Hi"}) | fields)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def text_of(answer: dict[str, Any]) -> str:
    """The first choice's."""
    choice = answer["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(("stop", "num_tokens"), [(START, 1), (START + START, 2), (["zzz", START * 3], 3)])
def test_a_stop_that_spells_a_special_token_is_heard(
    server: Server, path: str, stop: str | list[str], num_tokens: int
) -> None:
    answer = post(server, path, n=2, stop=stop, **ALWAYS_START)
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "stop"
        assert choice["stop_reason"] == (stop if isinstance(stop, str) else stop[-1])
        assert (choice["text"] if path == COMPLETE else choice["message"]["content"]) == ""
    assert answer["usage"]["completion_tokens"] == 2 * num_tokens


def test_a_stream_ends_at_a_stop_that_spells_a_special_token(server: Server) -> None:
    chunks = list(
        server.openai().completions.create(
            model="smollm2", prompt="Hi", stop=START, stream=True, logit_bias={"1": 100}, max_tokens=8
        )
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks] == ["stop"]


def test_a_stop_may_begin_with_a_special_token_and_go_on_as_text(server: Server) -> None:
    only = {"allowed_token_ids": [1, 504], "temperature": 5.0, "max_tokens": 64, "ignore_eos": True, "seed": 1}
    free = post(server, COMPLETE, **only, skip_special_tokens=False)["choices"][0]["text"]
    stop = START + "The"
    assert stop in free
    shown = post(server, COMPLETE, **only, stop=stop)["choices"][0]
    assert shown["stop_reason"] == stop
    assert shown["text"] == free[: free.index(stop)].replace(START, "")
    whole = post(server, COMPLETE, **only, stop=stop, include_stop_str_in_output=True)["choices"][0]
    assert whole["text"] == shown["text"] + stop


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
def test_what_matches_a_regex_ends_an_answer(server: Server, path: str) -> None:
    asked = {"max_tokens": 24, "temperature": 0, "ignore_eos": True}
    free = text_of(post(server, path, **asked))
    second = re.search(r"\s\w+\s", free)
    assert second is not None
    ended = post(server, path, stop_regex=r"\s\w+\s", **asked)
    assert text_of(ended) == free[: second.start()]
    assert (ended["choices"][0]["finish_reason"], ended["choices"][0]["stop_reason"]) == ("stop", r"\s\w+\s")
    whole = post(server, path, stop_regex=["zzz+", r"\s\w+\s"], include_stop_str_in_output=True, n=2, **asked)
    assert text_of(whole) == free[: second.end()]
    body = {"prompt": "Hi", "stream": True, "stop_regex": r"\s\w+\s"} | asked
    if path == COMPLETE:
        with server.http() as http, http.stream("POST", path, json=body) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["text"] for event in events) == text_of(ended)


@pytest.mark.parametrize("path", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("stop_regex", "words"),
    [("a(", "without its )"), ("a$", "asks what comes next"), ("(a{99}){99}", "over 256 parts"), ("a*", "empty text")],
)
def test_a_regex_that_cannot_be_followed_is_refused(server: Server, path: str, stop_regex: str, words: str) -> None:
    with server.http() as http:
        body = {"messages": MESSAGES} if path == CHAT else {"prompt": ["Hi", "Ho"]}
        answer = http.post(path, json=body | {"stop_regex": ["fine", stop_regex]})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stop_regex"
    assert words in answer.json()["error"]["message"]


def test_other_stops_see_the_text_as_it_is_sent(server: Server) -> None:
    only = {"allowed_token_ids": [1, 504], "temperature": 5.0, "max_tokens": 64, "ignore_eos": True, "seed": 1}
    for stop in ("TheTheThe", "im_start"):
        sent = post(server, COMPLETE, **only)["choices"][0]["text"]
        choice = post(server, COMPLETE, **only, stop=stop)["choices"][0]
        assert choice["text"] == (sent[: sent.index(stop)] if stop in sent else sent)


def test_an_llm_hears_a_stop_that_spells_a_special_token_and_tells_the_whole_vocabulary() -> None:
    with LLM("smollm2", kv_cache_memory="16MiB", max_logprobs=-1) as llm:
        params = SamplingParams(max_tokens=8, logit_bias={1: 100.0}, stop=START)
        [output] = llm.generate("Hi", params, use_tqdm=False)
        assert (output.outputs[0].finish_reason, len(output.outputs[0].token_ids)) == ("stop", 1)
        params = SamplingParams(max_tokens=1, logprobs=-1, bad_words=["the"])
        [output] = llm.generate("The sea is", params, use_tqdm=False)
        assert len((output.outputs[0].logprobs or [])[0]) == llm.tokenizer.vocab_size


def test_candidates_that_are_no_text_are_told_apart_by_their_bytes(server: Server) -> None:
    asked = {"prompt": "🙂🙂🙂🙂🙂🙂", "max_tokens": 2, "temperature": 0, "logprobs": 5, "echo": True}
    logprobs = post(server, COMPLETE, **asked)["choices"][0]["logprobs"]
    entries = list(zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True))[1:]
    assert logprobs["tokens"][:2] == ["bytes:\\xf0\\x9f", "bytes:\\x99\\x82"]
    for token, value, tops in entries:
        assert 5 <= len(tops) <= 6
        assert tops[token] == value


def test_a_chat_names_tokens_that_are_no_text_by_their_bytes(server: Server) -> None:
    [token] = server.front.tokenizer.encode("🙂")[:1]
    choice = post(server, CHAT, max_tokens=1, logprobs=True, top_logprobs=3, allowed_token_ids=[token])["choices"][0]
    [entry] = choice["logprobs"]["content"]
    assert (entry["token"], entry["bytes"]) == ("bytes:\\xf0\\x9f", [0xF0, 0x9F])


def test_an_offset_is_a_place_in_the_text_that_is_sent(server: Server) -> None:
    skipped = post(server, COMPLETE, ignore_eos=True, logit_bias={"2": 100}, max_tokens=3, logprobs=0)["choices"][0]
    assert (skipped["text"], skipped["logprobs"]["text_offset"]) == ("", [0, 0, 0])
    for prompt in (f"{START}user\nhi<|im_end|>\n", [0, 504, 3575], "naïve 🙂🙂 x"):
        asked = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 3, "allowed_token_ids": [1, 504]}
        choice = post(server, COMPLETE, **asked, temperature=2.0, seed=2)["choices"][0]
        at = zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True)
        generated = choice["text"][len(choice["text"].rstrip("The")) :]
        assert set(generated) <= set("The")
        for place, (token, offset) in enumerate(at):
            is_skipped = token == START and place >= len(choice["logprobs"]["tokens"]) - 3
            if not is_skipped and not token.startswith("bytes:"):
                assert choice["text"][offset:].startswith(token)
        assert choice["logprobs"]["text_offset"][-1] <= len(choice["text"])


def test_an_echo_gives_token_ids_back_whole(server: Server) -> None:
    asked = {"echo": True, "max_tokens": 1, "temperature": 0}
    by_ids = post(server, COMPLETE, prompt=[0, 504, 3575], **asked)["choices"][0]["text"]
    assert by_ids.startswith("<|endoftext|>The capital")
    assert by_ids == post(server, COMPLETE, prompt="<|endoftext|>The capital", **asked)["choices"][0]["text"]


def test_tokens_are_named_by_their_ids_where_that_is_asked_for(server: Server) -> None:
    asked = {"return_tokens_as_token_ids": True, "max_tokens": 2, "temperature": 0, "return_token_ids": True}
    choice = post(server, COMPLETE, logprobs=3, **asked)["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token}" for token in choice["token_ids"]]
    assert [len(tops) for tops in choice["logprobs"]["top_logprobs"]] == [3, 3]
    chat = post(server, CHAT, logprobs=True, top_logprobs=2, **asked)["choices"][0]
    assert [entry["token"] for entry in chat["logprobs"]["content"]] == [f"token_id:{t}" for t in chat["token_ids"]]
    assert all(top["token"].startswith("token_id:") for top in chat["logprobs"]["content"][0]["top_logprobs"])


def test_top_logprobs_of_zero_need_no_logprobs(server: Server) -> None:
    assert post(server, CHAT, max_tokens=1, logprobs=False, top_logprobs=0)["choices"][0]["logprobs"] is None


@pytest.fixture(scope="module")
def unbounded() -> Iterator[Server]:
    config = EngineConfig(model="smollm2", kv_cache_memory="16MiB", max_model_len=64, max_logprobs=-1)
    with running_engine(config) as background, serving(background) as server:
        yield server


def test_minus_one_is_the_whole_vocabulary_where_the_server_allows_it(server: Server, unbounded: Server) -> None:
    size = server.front.tokenizer.vocab_size
    choice = post(unbounded, COMPLETE, prompt="a b", max_tokens=1, logprobs=-1, prompt_logprobs=-1)["choices"][0]
    assert len(choice["logprobs"]["top_logprobs"][0]) == len(choice["prompt_logprobs"][1]) == size
    chat = post(unbounded, CHAT, max_tokens=1, logprobs=True, top_logprobs=-1)["choices"][0]
    assert len(chat["logprobs"]["content"][0]["top_logprobs"]) == size
    for path, fields in (
        (COMPLETE, {"prompt": "a", "logprobs": -1}),
        (COMPLETE, {"prompt": "a", "prompt_logprobs": -1}),
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": -1}),
    ):
        with server.http() as http:
            answer = http.post(path, json=fields)
        assert answer.status_code == 400
        assert "--max-logprobs" in answer.json()["error"]["message"]
