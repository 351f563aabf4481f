"""Whatever a body holds, the server goes on answering others while it reads it."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.conftest import Server

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
LONGEST_SILENCE_S = 2.0
"""Generous: it takes a hundredth of that where nothing else runs, and many times as much where a body is read on the
event loop."""


def longest_silence_s(server: Server, path: str, content: bytes) -> tuple[httpx.Response, float]:
    """Post a body, and see how long /live takes to answer meanwhile."""
    done, longest = threading.Event(), 0.0

    def watch() -> None:
        nonlocal longest
        with server.http() as http:
            while not done.is_set():
                start_s = time.monotonic()
                assert http.get("/live").status_code == 200
                longest = max(longest, time.monotonic() - start_s)
                time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with server.http() as http:
            answer = http.post(path, content=content, headers=JSON)
    finally:
        done.set()
        watching.join()
    return answer, longest


def of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("path", "content", "named"),
    [
        (COMPLETE, of(prompt="a" * 8_000_000), "maximum context length is 512 tokens"),
        (COMPLETE, of(prompt=" " * 8_000_000), "maximum context length is 512 tokens"),
        (COMPLETE, b'{"prompt":"' + "🙂".encode() * 1_900_000 + b'"}', "maximum context length is 512 tokens"),
        (COMPLETE, b'{"prompt":[' + b"{}," * 2_600_000 + b"{}]}", "lists, objects and texts"),
        (COMPLETE, b'{"prompt":[' + b"1," * 4_000_000 + b"1]}", "over 1500000 numbers"),
        (COMPLETE, of(prompt=[1] * 1_000_000), "maximum context length is 512 tokens"),
        (COMPLETE, of(prompt=[[1] * 1_000_000]), "maximum context length is 512 tokens"),
        (COMPLETE, of(prompt=["a", 1] * 100_000), "lists, objects and texts"),
        (COMPLETE, of(prompt=["a", 1] * 5_000), "prompt has 10000 entries"),
        (COMPLETE, of(prompt="a", stop_token_ids=[{}] * 100_000), "lists, objects and texts"),
        (COMPLETE, of(prompt="a", stop_token_ids=["a"] * 4_000), "stop_token_ids"),
        (COMPLETE, of(prompt="a", logit_bias={str(token): 1 for token in range(600_000)}), "lists, objects and texts"),
        (COMPLETE, of(**{f"field_{number}": number for number in range(300_000)}), "lists, objects and texts"),
        (COMPLETE, b'{"prompt":' + b"[" * 50_000 + b'],"x":"' + b"y" * 100_000 + b'"}', "nested too deeply"),
        (COMPLETE, of(prompt="a", bad_words=["a b" * 160_000] * 16), "a text of bad_words has at least"),
        (COMPLETE, of(prompt=" " * 8_000_000, truncate_prompt_tokens=5), "--max-tokenize-bytes"),
        (CHAT, of(messages=[1] * 1_000_000), "messages: Input should be a valid dictionary"),
        (CHAT, of(messages=[{"role": "user", "content": "a" * 4_000_000}]), "maximum context length is 512 tokens"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_cannot_be_served_is_refused_while_others_are_answered(
    server: Server, path: str, content: bytes, named: str
) -> None:
    answer, silence_s = longest_silence_s(server, path, content)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    assert silence_s < LONGEST_SILENCE_S


@pytest.mark.parametrize("stop", ["a" * 100_000, "ab" * 50_000, "<" * 100_000], ids=["a", "ab", "<"])
def test_long_stop_texts_cost_no_more_than_short_ones(server: Server, stop: str) -> None:
    content = of(prompt="a", max_tokens=2, n=16, ignore_eos=True, stop=[stop] * 16)
    answer, silence_s = longest_silence_s(server, COMPLETE, content)
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"] * 16
    assert silence_s < LONGEST_SILENCE_S


def test_marks_inside_of_texts_are_no_parts_of_a_body(server: Server) -> None:
    text = '[{":"\\' * 60_000
    with server.http() as http:
        answer = http.post(COMPLETE, content=of(prompt="a", max_tokens=1, user=text), headers=JSON)
    assert answer.status_code == 200


def test_a_text_that_fits_is_answered_however_long_it_is(server: Server) -> None:
    """Its 64 spaces are one token."""
    num_spaces = 64 * 500
    with server.http() as http:
        answer = http.post(COMPLETE, json={"prompt": "a" + " " * num_spaces, "max_tokens": 1})
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] >= 500


def test_a_list_of_prompts_may_be_as_long_as_the_queue(server: Server, serve: Any) -> None:
    asked = {"prompt": ["a"] * 96, "max_tokens": 1}
    with server.http() as http:
        assert len(http.post(COMPLETE, json=asked).json()["choices"]) == 96
    with serve(max_queued_requests=95) as small, small.http() as http:
        assert "--max-queued-requests" in http.post(COMPLETE, json=asked).json()["error"]["message"]
    with serve(max_prompts=95) as small, small.http() as http:
        assert "--max-prompts" in http.post(COMPLETE, json=asked).json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"prompt": "a", "user": "' + b"x" * 70_000, "truncated"),
        (b'{"prompt": "\xff", "user": "' + b"x" * 70_000 + b'"}', "is not UTF-8"),
        (b'{"prompt": "a", "temperature": 1e999, "user": "' + b"x" * 70_000 + b'"}', "finite"),
        (b'{"prompt": "a", "temperature": 1e999}', "finite"),
        (b'{"prompt": "a", "n": ' + b"9" * 5_000 + b"}", "too many digits"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        (b'["' + b"x" * 70_000 + b'"]', "JSON object"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_with_a_body_is_told_at_any_size(server: Server, content: bytes, named: str) -> None:
    with server.http() as http:
        answer = http.post(COMPLETE, content=content, headers=JSON)
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]


def test_long_texts_do_not_fill_the_memory(server: Server) -> None:
    """Each of the threads that tokenize keeps what its longest text took: about 180 MiB here."""
    content = of(prompt="a b1" * 250_000)
    with server.http() as http:
        assert http.post("/tokenize", content=content, headers=JSON).status_code == 200
        before = resident_mib()
        with ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                asked = [threads.submit(http.post, "/tokenize", content=content, headers=JSON)]
                # Work beside it, so that no text meets the thread of the one before.
                asked += [threads.submit(http.post, COMPLETE, json={"prompt": "a", "max_tokens": 1}) for _ in range(3)]
                assert {each.result().status_code for each in asked} == {200}
    assert resident_mib() - before < 300


def resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
