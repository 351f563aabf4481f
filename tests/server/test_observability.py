"""/metrics, the health routes and the request log; and what is seen when the engine dies."""

import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.engine.stream import RequestStream
from octavo.scheduling.messages import EngineRequest
from server.conftest import ENGINE, Server, running_engine, send, serving, until

ASK: dict[str, Any] = {"prompt": "The sea is", "max_tokens": 5, "seed": 1, "n": 2}


def samples(http: httpx.Client) -> dict[str, float]:
    """What /metrics says now, by name and labels; what all series of a name have in common is left out."""
    common = ("le", "model_name", "engine")
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {
        sample.name + "".join(f"{{{value}}}" for key, value in sample.labels.items() if key not in common): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_count_what_was_answered(serve: Any) -> None:
    with serve() as server, server.http() as http:
        until(server.background.is_idle)
        assert http.post("/v1/completions", json=ASK).status_code == 200
        until(lambda: server.num_in_server == 0)
        now = samples(http)
    assert now["vllm:prompt_tokens_total"] == 3
    assert now["vllm:generation_tokens_total"] == 10
    assert now["vllm:request_success_total{length}"] == 2
    assert now["vllm:request_success_total{stop}"] == now["vllm:request_success_total{abort}"] == 0
    assert now["vllm:time_to_first_token_seconds_count"] == 1
    assert now["vllm:inter_token_latency_seconds_count"] <= 4, "steps that wait for a slow reader come as one"
    assert now["vllm:e2e_request_latency_seconds_count"] == 1
    assert now["octavo:requests_open"] == 0


def test_gauges_show_blocks_shared_while_several_answers_are_made(serve: Any) -> None:
    body = {"prompt": "word " * 40, "n": 4, "max_tokens": 300, "ignore_eos": True, "stream": True}
    with serve() as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()  # kept: a dropped iterator closes the connection
            assert next(lines)
            now = samples(http)
        assert now["octavo:requests_open"] == now["vllm:num_requests_running"] == 1
        assert now["vllm:num_requests_waiting"] == now["vllm:num_preemptions_total"] == 0
        assert now["octavo:kv_blocks{shared}"] >= 2
        assert now["octavo:kv_blocks_unshared"] > now["octavo:kv_blocks{used}"] > 0
        total = sum(now[f"octavo:kv_blocks{{{state}}}"] for state in ("used", "free", "cached"))
        assert now["vllm:kv_cache_usage_perc"] == pytest.approx(now["octavo:kv_blocks{used}"] / total)
        held = sum(now[f"octavo:kv_slots{{{state}}}"] for state in ("filled", "reserved", "fragmented"))
        assert held == now["octavo:kv_blocks{used}"] * ENGINE.block_size
        assert now["octavo:kv_padding_bytes"] == 0, "all layers are alike"
        assert now["octavo:kv_waste_ratio"] == pytest.approx(1 - now["octavo:kv_slots{filled}"] / held)
        until(lambda: samples(http)["vllm:request_success_total{abort}"] == 4)


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "octavo.requests"]


def test_each_request_is_logged_in_one_line_without_its_words(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="octavo.requests")
    with serve(api_key=("secret-key",)) as server, server.http() as http:
        answer = http.post("/v1/completions", json=ASK, headers={"authorization": "Bearer secret-key"})
        until(lambda: len(logged(caplog)) == 1)
    [line] = logged(caplog)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert answer.json()["id"] == f"cmpl-{line['request_id']}"
    assert (line["path"], line["status"], line["complete"]) == ("/v1/completions", 200, True)
    assert (line["prompt_tokens"], line["output_tokens"]) == (3, 10)
    assert line["finish_reasons"] == ["length", "length"]
    assert 0 <= line["queue_s"] <= line["first_token_s"] <= line["total_s"]
    assert len(line["tenant"]) == 16
    assert "The sea is" not in caplog.text
    assert "secret-key" not in caplog.text


def test_prompts_are_logged_where_asked_for(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="octavo.requests")
    with serve(log_prompts=True) as server, server.http() as http:
        texts = [choice["text"] for choice in http.post("/v1/completions", json=ASK).json()["choices"]]
        until(lambda: len(logged(caplog)) == 1)
    assert logged(caplog)[0]["prompts"] == ["The sea is"]
    assert logged(caplog)[0]["texts"] == texts


def test_a_chat_is_logged_as_the_text_that_its_template_made(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="octavo.requests")
    body = {"messages": [{"role": "user", "content": "What is the sea?"}], "max_tokens": 2}
    with serve(log_prompts=True) as server, server.http() as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        until(lambda: len(logged(caplog)) == 1)
    [prompt] = logged(caplog)[0]["prompts"]
    assert prompt.startswith("<|im_start|>")
    assert "What is the sea?" in prompt


def test_a_requests_tenant_is_its_key_and_goes_to_the_engine(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(api_key=("first", "second")) as server:
        client = server.front.client
        submitted: list[EngineRequest] = []
        submit: Callable[[EngineRequest], RequestStream] = client.submit

        def watched(request: EngineRequest) -> RequestStream:
            submitted.append(request)
            return submit(request)

        monkeypatch.setattr(client, "submit", watched)
        for key in ("first", "second", "first"):
            server.openai(key).completions.create(model="smollm2", prompt="a", max_tokens=1)
    tenants = [request.tenant for request in submitted]
    assert tenants[0] == tenants[2] != tenants[1]
    assert all(tenants)
    assert "first" not in tenants


def test_memory_is_told_before_the_first_request() -> None:
    with running_engine() as background, serving(background) as server, server.http() as http:
        until(lambda: background.front.client.load is not None)
        now = samples(http)
    assert now["octavo:kv_blocks{free}"] > 0
    assert now["octavo:kv_blocks{used}"] == now["octavo:kv_blocks{shared}"] == 0


def test_a_client_that_left_is_logged_with_what_it_had(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="octavo.requests")
    body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with serve() as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()  # kept: a dropped iterator closes the connection
            assert next(lines)
        until(lambda: len(logged(caplog)) == 1)
    [line] = logged(caplog)
    assert line["complete"] is False
    assert line["finish_reasons"] == ["abort"]
    assert line["output_tokens"] > 0


def test_an_engine_that_says_nothing_for_too_long_fails_the_health_check(serve: Any) -> None:
    with serve(step_timeout=0) as server, server.http() as http:
        assert http.get("/health").status_code == 200, "idle"
        engine = psutil.Process(server.front.client._process.pid)
        engine.suspend()
        try:
            with send(server, ASK):
                until(lambda: server.front.client.num_open == 1)
                answer = http.get("/health")
        finally:
            engine.resume()
        until(server.background.is_idle)
    assert answer.status_code == 503
    assert "--step-timeout" in answer.json()["reason"]


def test_the_engines_death_ends_streams_with_an_error_and_refuses_new_work() -> None:
    with running_engine() as background, serving(background) as server, server.http() as http:
        assert_dying_is_told(server, http)


def assert_dying_is_told(server: Server, http: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.front.client._process.kill()
        events = [line for line in lines if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_stopped"
    refused = http.post("/v1/completions", json=ASK)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "engine_stopped"
    assert http.get("/health").status_code == http.get("/ready").status_code == 503
    assert http.get("/live").status_code == 200
