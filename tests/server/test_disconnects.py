"""Clients that go away leave nothing behind, whatever their request was doing."""

import random
import threading
import time
from typing import Any

import pytest

from octavo.scheduling.messages import EngineRequest
from octavo.tokenization.spelled_tokens import Rendered
from octavo.tokenization.tokenizer import Tokenizer
from server.conftest import Server, send, until

LONG: dict[str, Any] = {"prompt": "Once upon a time", "max_tokens": 480, "ignore_eos": True}


def is_clean(server: Server) -> bool:
    return server.num_in_server == 0 and server.background.is_idle()


def until_running(server: Server, count: int = 1) -> None:
    until(lambda: server.front.client.load is not None and server.front.client.load.num_running >= count)


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_tokens_are_made_frees_the_memory(server: Server, stream: bool) -> None:
    connection = send(server, LONG | {"stream": stream})
    until_running(server)
    connection.close()
    until(lambda: is_clean(server))


def test_leaving_a_stream_after_its_first_tokens_frees_the_memory(server: Server) -> None:
    with server.http() as http, http.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as answer:
        next(answer.iter_lines())
    until(lambda: is_clean(server))


def test_leaving_one_of_many_prompts_answers_frees_all(server: Server) -> None:
    connection = send(server, LONG | {"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 100, "stream": True})
    until_running(server)
    connection.close()
    until(lambda: is_clean(server))


def test_leaving_while_queued_takes_nothing_from_who_is_running(server: Server) -> None:
    """Each wants more than half of the pool, so the second waits."""
    first = send(server, LONG | {"n": 8})
    until_running(server)
    second = send(server, LONG | {"n": 8})
    until(lambda: server.front.client.num_open == 2)
    second.close()
    until(lambda: server.front.client.num_open == 1)
    first.close()
    until(lambda: is_clean(server))


@pytest.mark.parametrize("cut", [40, 130, 150])
def test_leaving_before_the_body_is_whole_leaves_nothing(server: Server, cut: int) -> None:
    send(server, LONG, cut).close()
    until(lambda: is_clean(server))


def test_leaving_while_the_prompt_is_tokenized_never_reaches_the_engine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, allowed = threading.Event(), threading.Event()
    encode = Tokenizer.encode_rendered

    def held(self: Tokenizer, prompt: Rendered, add_special_tokens: bool) -> list[int]:
        begun.set()
        allowed.wait()
        return encode(self, prompt, add_special_tokens)

    submitted: list[EngineRequest] = []
    monkeypatch.setattr(Tokenizer, "encode_rendered", held)
    monkeypatch.setattr(server.front.client, "submit", submitted.append)
    connection = send(server, LONG)
    begun.wait()
    connection.close()
    try:
        until(lambda: server.num_in_server == 0)
    finally:
        allowed.set()
    until(lambda: is_clean(server))
    assert not submitted


def test_leaving_at_any_moment_leaves_nothing(server: Server) -> None:
    chance = random.Random(0)
    for _ in range(40):
        connection = send(server, LONG | {"stream": chance.random() < 0.5, "n": chance.randint(1, 3), "max_tokens": 60})
        time.sleep(chance.random() * 0.05)
        connection.close()
    until(lambda: is_clean(server))
    with server.http() as http:
        assert http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
