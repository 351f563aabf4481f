"""The request log: a line for every request, refused ones too, and words only where they are asked for."""

import json
import logging
import subprocess
from typing import Any

import pytest

from e2e.server_process import SERVE, serving, until
from octavo.server.request_log import MAX_TEXT, _shortened
from server.conftest import until as soon

COMPLETE = "/v1/completions"


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "octavo.requests"]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="octavo.requests")
    return caplog


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", COMPLETE, {"prompt": "secret words", "top_p": 7}, 400, {"param": "top_p"}),
        ("POST", COMPLETE, {"model": "other", "prompt": "secret words"}, 404, {"code": "model_not_found"}),
        ("POST", "/v1/chat/completions", {"messages": "secret words"}, 400, {"param": "messages"}),
        ("POST", "/v1/nothing", {"input": "secret words"}, 404, {"code": "not_found"}),
        ("GET", COMPLETE, None, 405, {"code": "method_not_allowed"}),
    ],
)
def test_a_refused_request_leaves_a_line_that_says_why(
    serve: Any, log: Any, method: str, path: str, body: Any, status: int, error: dict[str, str]
) -> None:
    with serve() as server, server.http() as http:
        answer = http.request(method, path, json=body)
        own = answer.headers["x-request-id"]  # the line of a request of the test before may still come
        soon(lambda: any(line["request_id"] == own for line in lines_of(log)))
    [line] = [line for line in lines_of(log) if line["request_id"] == own]
    assert (answer.status_code, line["status"], line["method"], line["path"]) == (status, status, method, path)
    assert error.items() <= line["error"].items()
    assert "secret" not in log.text


def test_a_request_without_a_key_or_over_the_limits_leaves_a_line(serve: Any, log: Any) -> None:
    with serve(api_key=("key",), max_body_bytes="1KB") as server, server.http() as http:
        http.post(COMPLETE, json={"prompt": "a"})
        http.post(COMPLETE, json={"prompt": "a" * 2000}, headers={"authorization": "Bearer key"})
        soon(lambda: len(lines_of(log)) == 2)
    assert [line["status"] for line in lines_of(log)] == [401, 413]
    assert [line["error"]["code"] for line in lines_of(log)] == ["invalid_api_key", "body_too_large"]


def test_a_line_tells_the_model_as_the_request_calls_it(serve: Any, log: Any) -> None:
    with serve(served_model_name=("best", "good")) as server, server.http() as http:
        http.post(COMPLETE, json={"model": "good", "prompt": "a", "max_tokens": 1})
        http.get("/v1/models")
        soon(lambda: len(lines_of(log)) == 2)
    assert {line["path"]: line["model"] for line in lines_of(log)} == {COMPLETE: "good", "/v1/models": None}


def test_names_of_any_length_leave_a_short_line(serve: Any, log: Any) -> None:
    with serve() as server, server.http() as http:
        http.post(COMPLETE, json={"model": "m" * 1_000_000, "prompt": "a"})
        http.post("/tokenize", json={"model": "m" * 1_000_000, "prompt": "a"})
        http.get("/v1/models/" + "m" * 20_000)
        soon(lambda: len(lines_of(log)) == 3)
    assert max(len(record.message) for record in log.records if record.name == "octavo.requests") < 2000
    assert lines_of(log)[0]["model"].endswith("(999744 characters more)")


def test_probes_that_are_well_leave_no_line_and_others_do(serve: Any, log: Any) -> None:
    with serve() as server, server.http() as http:
        for path in ("/live", "/ready", "/health", "/metrics"):
            assert http.get(path).status_code == 200
        server.app.state.is_draining = True
        assert http.get("/ready").status_code == 503
        soon(lambda: len(lines_of(log)) == 1)
    assert [(line["path"], line["status"]) for line in lines_of(log)] == [("/ready", 503)]


def test_nothing_is_logged_where_that_is_asked_for(serve: Any, log: Any) -> None:
    with serve(log_requests=False) as server, server.http() as http:
        http.post(COMPLETE, json={"prompt": "a", "max_tokens": 1})
        soon(lambda: server.num_in_server == 0)
    assert lines_of(log) == []


def test_a_line_with_words_stays_one_line_and_shows_other_scripts_as_they_are(serve: Any, log: Any) -> None:
    prompt = "日本\x9b\u2028\U000e0001\n"
    with serve(log_requests=False, log_prompts=True) as server, server.http() as http:
        http.post(COMPLETE, json={"prompt": prompt, "max_tokens": 1})
        http.post(COMPLETE, json={"prompt": [504] * 300, "max_tokens": 1})
        soon(lambda: len(lines_of(log)) == 2)
    assert "日本\\u009b\\u2028\\udb40\\udc01\\n" in log.text
    assert all(record.message.isprintable() for record in log.records if record.name == "octavo.requests")
    assert [prompt] in [line["prompts"] for line in lines_of(log)]
    assert [[504] * 300] in [line["prompts"] for line in lines_of(log)]


def test_what_is_over_the_bound_is_counted() -> None:
    assert _shortened("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert _shortened("x" * (MAX_TEXT + 5)) == "x" * MAX_TEXT + " … (5 characters more)"
    assert _shortened([1] * (MAX_TEXT + 5)) == [*[1] * MAX_TEXT, "5 more"]


def test_a_served_process_logs_requests_by_default_and_words_where_asked_without_verbose() -> None:
    for flags, words in (((), 0), (("--log-prompts",), 1), (("--no-log-requests",), None)):
        with serving("--max-model-len", "64", *flags) as server:
            server.client.completions.create(model="smollm2", prompt="xyzzy", max_tokens=2)
            wanted = 0 if words is None else 1
            until(lambda: server.printed.count('"path": "/v1/completions"') == wanted)  # noqa: B023
            server.process.terminate()
            assert server.wait() == 0
        logged = [line for line in server.printed.splitlines() if '"request_id"' in line]
        assert len(logged) == wanted
        assert server.printed.count("xyzzy") == (words or 0)


def test_help_names_the_switch_and_its_opposite() -> None:
    text = subprocess.run([*SERVE, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--log-requests, --no-log-requests" in text
