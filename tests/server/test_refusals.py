"""Bad requests, missing keys and full servers: the right status, in OpenAI's format, and nothing left behind."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from server.conftest import Server, until

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, checked for its form."""
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": "Hello"}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "content"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "surrogate"),
        (CHAT, {"messages": MESSAGES, "temperature": -1}, "temperature"),
        (CHAT, {"messages": MESSAGES, "temperature": "hot"}, "temperature"),
        (CHAT, {"messages": MESSAGES, "temperature": True}, "temperature"),
        (CHAT, {"messages": MESSAGES, "top_p": -0.1}, "top_p"),
        (CHAT, {"messages": MESSAGES, "n": 0}, "n"),
        (CHAT, {"messages": MESSAGES, "n": 65}, "--max-n"),
        (CHAT, {"messages": MESSAGES, "n": 10**30}, "--max-n"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 0}, "max_tokens"),
        (CHAT, {"messages": MESSAGES, "min_tokens": 10**30}, "min_tokens"),
        (CHAT, {"messages": MESSAGES, "top_k": 10**30}, "top_k"),
        (CHAT, {"messages": MESSAGES, "seed": -(2**63) - 1}, "seed"),
        (CHAT, {"messages": MESSAGES, "seed": 2**63}, "seed"),
        (CHAT, {"messages": MESSAGES, "stop": [""]}, "stop"),
        (CHAT, {"messages": MESSAGES, "stop": "\ud800"}, "stop"),
        (CHAT, {"messages": MESSAGES, "stop": ["x"] * 17}, "--max-stop-strings"),
        (CHAT, {"messages": MESSAGES, "logit_bias": {"hello": 1}}, "logit_bias"),
        (CHAT, {"messages": MESSAGES, "logit_bias": {"1": 1000}}, "logit_bias"),
        (CHAT, {"messages": MESSAGES, "logit_bias": {"999999": 1}}, "logit_bias"),
        (CHAT, {"messages": MESSAGES, "logit_bias": {str(i): 1 for i in range(1025)}}, "--max-logit-bias"),
        (CHAT, {"messages": MESSAGES, "presence_penalty": 3}, "presence_penalty"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "--max-logprobs"),
        (CHAT, {"messages": MESSAGES, "stop_token_ids": [-1]}, "stop_token_ids"),
        (CHAT, {"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools"),
        (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, "tools"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "xml"}}, "response_format"),
        (CHAT, {"messages": MESSAGES, "modalities": ["audio"]}, "modalities"),
        (CHAT, {"messages": MESSAGES, "guided_json": {}, "guided_regex": "a"}, "guided_json"),
        (CHAT, {"messages": MESSAGES, "stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"messages": MESSAGES, "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        (CHAT, {"messages": MESSAGES, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        (COMPLETE, {"prompt": []}, "prompt"),
        (COMPLETE, {"prompt": ""}, "prompt"),
        (COMPLETE, {"prompt": [[]]}, "prompt"),
        (COMPLETE, {"prompt": "\ud800"}, "surrogate"),
        (COMPLETE, {"prompt": [1, "a"]}, "prompt"),
        (COMPLETE, {"prompt": [10**30]}, "token id"),
        (COMPLETE, {"prompt": ["a"] * 1025}, "--max-queued-requests"),
        (COMPLETE, {"prompt": "word " * 2000}, "--max-model-len"),
        (COMPLETE, {"prompt": "a", "best_of": 3}, "best_of"),
        (COMPLETE, {"prompt": "a", "length_penalty": 2.0}, "use_beam_search"),
        (COMPLETE, {"prompt": "a", "early_stopping": True}, "use_beam_search"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "n": 3, "best_of": 2}, "best_of"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "best_of": 1000}, "--max-n"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "temperature": 0.7}, "temperature"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "top_k": 5}, "top_k"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "stop": "b"}, "stop_token_ids"),
        (COMPLETE, {"prompt": "a", "use_beam_search": True, "early_stopping": "always"}, "early_stopping"),
        (CHAT, {"messages": MESSAGES, "use_beam_search": True, "length_penalty": 99}, "length_penalty"),
        (COMPLETE, {"prompt": "a", "suffix": "b"}, "suffix"),
        (COMPLETE, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (COMPLETE, {"prompt": "a", "logprobs": 10**30}, "logprobs"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_body_is_refused_with_a_message_that_names_the_cause(
    server: Server, path: str, body: dict[str, Any], named: str
) -> None:
    with server.http() as http:
        answer = http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000, b'{"n": 1' + b"0" * 5000 + b"}"]
)
def test_what_is_no_json_object_is_refused(server: Server, body: bytes) -> None:
    with server.http() as http:
        answer = http.post(COMPLETE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error_of(answer)


def test_other_models_paths_methods_and_types_are_refused_in_the_same_format(server: Server) -> None:
    with server.http() as http:
        answers = [
            http.post(COMPLETE, json={"model": "gpt-9", "prompt": "a"}),
            http.get("/v1/models/gpt-9"),
            http.get("/v2"),
            http.get(COMPLETE),
            http.post(COMPLETE, content=b"{}", headers={"content-type": "text/plain"}),
        ]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 405, 415]
    codes = [error_of(answer)["code"] for answer in answers]
    assert codes[:2] == ["model_not_found", "model_not_found"]


def test_the_openai_package_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.completions.create(model="smollm2", prompt="a", temperature=-1)


def test_of_several_prompts_none_runs_where_one_is_refused(server: Server) -> None:
    with server.http() as http:
        answer = http.post(COMPLETE, json={"prompt": ["fine", ""], "max_tokens": 200, "ignore_eos": True})
    assert answer.status_code == 400
    assert server.front.client.num_open == 0


def test_a_body_over_the_limit_is_not_read_to_its_end(serve: Any) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(4):
            yield b" " * 500

    with serve(max_body_bytes="1KB") as server, server.http() as http:
        announced = http.post(COMPLETE, json={"prompt": "a" * 2000})
        chunked = http.post(COMPLETE, content=chunks(), headers={"content-type": "application/json"})
        small = http.post(COMPLETE, json={"prompt": "a", "max_tokens": 1})
    assert [answer.status_code for answer in (announced, chunked, small)] == [413, 413, 200]
    assert "--max-body-bytes" in error_of(announced)["message"]


def test_every_route_but_those_of_supervisors_needs_one_of_the_keys(serve: Any) -> None:
    keys = ("first", "zweiter-schlüssel")
    with serve(api_key=keys, protect_metrics=True) as server, server.http() as http:
        assert http.get("/live").status_code == http.get("/ready").status_code == 200
        for path in ("/v1/models", "/health", "/metrics", "/openapi.json", "/docs", "/nowhere"):
            answer = http.get(path)
            assert answer.status_code == 401
            assert error_of(answer)["type"] == "authentication_error"
        for header in ("Bearer wrong", "Bearer", "first", "Basic first", "Bearer firs", "Bearer first2"):
            assert http.get("/v1/models", headers={"authorization": header}).status_code == 401
        assert http.get("/v1/models", headers={"authorization": "bearer first"}).status_code == 200
        assert server.openai("first").models.list().data
        with pytest.raises(openai.AuthenticationError):
            server.openai("wrong").models.list()


def test_requests_past_the_bound_get_429_until_there_is_room(serve: Any) -> None:
    long = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with serve(max_queued_requests=2) as server, server.http() as http:
        with http.stream("POST", COMPLETE, json=long) as one, http.stream("POST", COMPLETE, json=long) as two:
            assert one.status_code == two.status_code == 200
            answer = http.post(COMPLETE, json={"prompt": "a"})
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 0
            assert error_of(answer)["type"] == "rate_limit_error"
            assert http.get("/health").status_code == 200, "only work is counted"
        until(lambda: server.num_in_server == 0)
        assert http.post(COMPLETE, json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_draining_server_takes_no_new_work(serve: Any) -> None:
    with serve() as server, server.http() as http:
        server.app.state.is_draining = True
        answer = http.post(COMPLETE, json={"prompt": "a"})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        assert error_of(answer)["code"] == "draining"
        assert http.get("/ready").status_code == http.get("/health").status_code == 503
        assert http.get("/live").status_code == 200


def test_an_unexpected_failure_tells_the_client_no_details(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server, server.http() as http:
        monkeypatch.setattr(server.front, "check", lambda *_: 1 / 0)
        answer = http.post(COMPLETE, json={"prompt": "a"})
    assert answer.status_code == 500
    assert "division" not in error_of(answer)["message"]
    assert answer.headers["x-request-id"]
