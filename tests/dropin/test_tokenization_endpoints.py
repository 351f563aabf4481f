"""/tokenize, /detokenize, /tokenizer_info and /version, as scripts for vLLM and lm-eval use them."""

import json
import threading
import time
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from octavo import __version__
from octavo.tokenization.tokenizer import Tokenizer
from server.conftest import ENGINE, Server

MESSAGES = [{"role": "user", "content": "What is the sea?"}]


@pytest.fixture
def http(server: Server) -> Any:
    with server.http() as http:
        yield http


def answer_to(http: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def error_to(http: httpx.Client, path: str, body: Any) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_a_text_is_tokenized_as_a_completions_prompt_is(http: httpx.Client, server: Server) -> None:
    told = answer_to(http, "/tokenize", model="smollm2", prompt="The sea is 日本")
    assert told["tokens"] == server.front.tokenizer.encode("The sea is 日本")
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == ENGINE.max_model_len
    assert told["token_strs"] is None
    usage = http.post("/v1/completions", json={"prompt": "The sea is 日本", "max_tokens": 1}).json()["usage"]
    assert usage["prompt_tokens"] == told["count"]


def test_a_conversation_is_tokenized_as_a_chats_is(http: httpx.Client, server: Server) -> None:
    told = answer_to(http, "/tokenize", messages=MESSAGES)
    usage = http.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 1}).json()["usage"]
    assert told["count"] == usage["prompt_tokens"]
    without = answer_to(http, "/tokenize", messages=MESSAGES, add_generation_prompt=False)
    assert told["tokens"][: without["count"]] == without["tokens"]
    assert without["count"] < told["count"]


def test_pieces_are_spelled_as_in_the_vocabulary(http: httpx.Client) -> None:
    told = answer_to(http, "/tokenize", prompt="The sea<|im_end|>", return_token_strs=True)
    assert told["token_strs"] == ["The", "Ġsea", "<|im_end|>"]


@pytest.mark.parametrize("text", ["The sea is", " leading", "日本 🙂\n", "<|im_start|>user\nHi<|im_end|>", ""])
def test_detokenizing_gives_back_what_was_tokenized_special_tokens_included(http: httpx.Client, text: str) -> None:
    tokens = answer_to(http, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
    assert answer_to(http, "/detokenize", model="smollm2", tokens=tokens)["prompt"] == text


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": ["a", "b"]}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "yes"}, "add_special_tokens"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens"),
        ("/detokenize", {"tokens": [49152]}, "tokens"),
        ("/detokenize", {"tokens": [2**70]}, "tokens"),
        ("/detokenize", {"tokens": "1 2"}, "tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(http: httpx.Client, path: str, body: Any, named: str) -> None:
    error = error_to(http, path, body)
    assert error["param"] == named
    assert named in error["message"]


def test_empty_messages_and_another_model_are_refused(http: httpx.Client) -> None:
    assert "messages" in error_to(http, "/tokenize", {"messages": []})["message"]
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert http.post(path, json={"model": "other", **body}).status_code == 404


def test_what_lm_eval_asks_of_a_remote_tokenizer_is_answered(http: httpx.Client) -> None:
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|im_end|>"
    assert {"bos_token", "pad_token", "tokenizer_class"} <= info.keys()
    assert "<|im_start|>" in info["chat_template"]
    [eos_id] = answer_to(http, "/tokenize", prompt=info["eos_token"], add_special_tokens=False)["tokens"]
    assert eos_id == 2
    assert http.get("/version").json() == {"version": __version__}


def test_they_need_the_key_as_v1_does(serve: Any) -> None:
    with serve(api_key=("key",)) as server, server.http() as http:
        assert http.post("/tokenize", json={"prompt": "a"}).status_code == 401
        assert http.get("/tokenizer_info").status_code == 401
        headers = {"authorization": "Bearer key"}
        assert http.post("/tokenize", json={"prompt": "a"}, headers=headers).status_code == 200


def test_a_text_over_the_cap_is_refused_by_its_bytes(serve: Any) -> None:
    with serve(max_tokenize_bytes="1KB") as server, server.http() as http:
        assert answer_to(http, "/tokenize", prompt="a" * 1000)["count"] > 0
        for text in ("a" * 1001, "日" * 334):
            conversation = [{"role": "user", "content": text}]
            for path, body in (
                ("/tokenize", {"prompt": text}),
                ("/tokenize", {"messages": conversation}),
                ("/v1/completions", {"prompt": text, "truncate_prompt_tokens": 3}),
                ("/v1/chat/completions", {"messages": conversation, "truncate_prompt_tokens": -1}),
            ):
                assert "--max-tokenize-bytes" in error_to(http, path, body)["message"]


def test_tokenizing_a_long_text_keeps_nobody_waiting(http: httpx.Client, server: Server) -> None:
    answers: list[int] = []

    def ask() -> None:
        with server.http() as other:
            answers.append(other.post("/tokenize", json={"prompt": "a" * 500_000}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    waits = []
    while asking.is_alive():
        start = time.monotonic()
        assert http.get("/live").status_code == 200
        waits.append(time.monotonic() - start)
        time.sleep(0.02)
    assert answers == [200]
    assert max(waits) < 10


def test_a_folders_own_settings_are_told_but_for_where_it_lay(tmp_path: Any) -> None:
    Backend(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "LlamaTokenizer", "name_or_path": "/home/me/model", "model_max_length": 10**30}
    eos = {"content": "</s>", "special": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": eos, "add_bos_token": True}))
    told = Tokenizer.from_folder(tmp_path, "{{ messages }}").description()
    assert told["tokenizer_class"] == "LlamaTokenizer"
    assert (told["eos_token"], told["bos_token"], told["add_bos_token"]) == ("</s>", None, True)
    assert told["model_max_length"] == 10**30
    assert told["chat_template"] == "{{ messages }}"
    assert "name_or_path" not in told
