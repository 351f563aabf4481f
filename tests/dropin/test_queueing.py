"""--max-queue-time: whoever is accepted begins in time, and whoever would not is told so at once."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from octavo.config import EngineConfig
from server.conftest import Background, Server, running_engine, serving, until

ASK = {"prompt": "The sea is", "max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def narrow() -> Iterator[Background]:
    """An engine that runs one sequence at a time."""
    config = EngineConfig(model="smollm2", quantization="int8", kv_cache_memory="64MiB", max_num_seqs=1)
    with running_engine(config) as background:
        yield background


async def ask(http: httpx.AsyncClient, stream: bool) -> httpx.Response:
    return await http.post("/v1/completions", json={**ASK, "stream": stream})


async def arrivals(server: Server, num_requests: int, gap_s: float) -> list[httpx.Response]:
    """Requests that come at equal times, every other one a stream."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        asking = []
        for number in range(num_requests):
            asking.append(asyncio.create_task(ask(http, stream=number % 2 == 0)))
            await asyncio.sleep(gap_s)
        return await asyncio.gather(*asking)


def queue_times_s(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Of the requests that began, as logged."""
    return [float(found) for found in re.findall(r'"queue_s": ([\d.]+)', caplog.text)]


def test_under_load_accepted_requests_begin_in_time_and_others_get_429(
    narrow: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """Five times as many as can be served come, and each may wait for four others."""
    with serving(narrow) as server, server.http() as http:
        http.post("/v1/completions", json=ASK)
        start_s = time.monotonic()
        http.post("/v1/completions", json=ASK)
        alone_s = time.monotonic() - start_s
    limit_s = 4 * alone_s
    caplog.set_level("INFO", logger="octavo.requests")
    with serving(narrow, max_queue_time=limit_s) as server:
        answers = asyncio.run(arrivals(server, num_requests=80, gap_s=alone_s / 5))
        until(server.background.is_idle)
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(served) + len(refused) == 80
    assert min(len(served), len(refused)) > 3
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert {answer.json()["error"]["code"] for answer in refused} == {"queue_time_exceeded"}
    assert {answer.json()["error"]["type"] for answer in refused} == {"rate_limit_error"}
    assert any(answer.elapsed.total_seconds() < limit_s / 2 for answer in refused), "told at once, from the estimate"
    assert all("error" not in answer.text.partition("data: [DONE]")[0][:200] for answer in served)
    waits_s = queue_times_s(caplog)
    assert len(waits_s) == len(served)
    assert max(waits_s) < limit_s + 1, "what is over the limit is the length of a step"


def test_one_that_was_accepted_and_does_not_begin_in_time_is_told_with_a_status(narrow: Background) -> None:
    long = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with serving(narrow, max_queue_time=0.3) as server, server.http() as http:
        with http.stream("POST", "/v1/completions", json=long) as running:
            lines = running.iter_lines()  # kept: a dropped iterator closes the connection
            assert next(lines)
            for stream in (True, False):
                start_s = time.monotonic()
                answer = http.post("/v1/completions", json={**ASK, "stream": stream})
                assert answer.status_code == 429
                assert "--max-queue-time" in answer.json()["error"]["message"]
                assert time.monotonic() - start_s >= 0.2 or not stream
        until(server.background.is_idle)
        assert http.post("/v1/completions", json={**ASK, "max_tokens": 1}).status_code == 200


def test_without_a_bound_requests_wait(narrow: Background) -> None:
    with serving(narrow) as server:
        answers: list[Any] = asyncio.run(arrivals(server, num_requests=6, gap_s=0.0))
    assert [answer.status_code for answer in answers] == [200] * 6


def test_a_stream_that_is_refused_by_the_engine_has_a_status_of_its_own(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server, server.http() as http:
        monkeypatch.setattr(server.front, "check", lambda *_: None)
        answer = http.post("/v1/completions", json={"prompt": [10**9], "stream": True})
    assert answer.status_code == 400
    assert "token id" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_samples_beyond_max_num_seqs_queue_and_more_beams_are_refused(narrow: Background, stream: bool) -> None:
    ask = {"prompt": "The sea is", "max_tokens": 6, "seed": 5, "temperature": 1.0, "n": 3, "stream": stream}
    with serving(narrow) as server, server.http() as http:
        texts = texts_of(http.post("/v1/completions", json=ask))
        assert len({*texts}) == 3, "other samples"
        assert texts[:1] == texts_of(http.post("/v1/completions", json=ask | {"n": 1})), "the same stream of chance"
        refused = http.post("/v1/completions", json=ask | {"use_beam_search": True, "temperature": 0})
    assert refused.status_code == 400
    assert "--max-num-seqs" in refused.json()["error"]["message"]


def texts_of(answer: httpx.Response) -> list[str]:
    """The texts of an answer's choices, in one piece or in a stream."""
    if "text/event-stream" not in answer.headers["content-type"]:
        return [choice["text"] for choice in answer.json()["choices"]]
    texts: dict[int, str] = {}
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in sorted(texts)]
