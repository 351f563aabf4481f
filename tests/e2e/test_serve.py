"""`octavo serve` as its user runs it: start, answer, drain, and end when the engine does."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from e2e.server_process import SERVE, Server, serving, until

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of Japan?"}]


def start_streaming(server: Server, max_tokens: int) -> tuple[threading.Thread, dict[str, object]]:
    """A stream in a thread that has its first token when this returns; the result is filled in at its end."""
    first = threading.Event()
    result: dict[str, object] = {"text": "", "error": None}

    def read() -> None:
        try:
            stream = server.client.completions.create(
                model="smollm2", prompt="Once", max_tokens=max_tokens, stream=True, extra_body={"ignore_eos": True}
            )
            for chunk in stream:
                result["text"] = str(result["text"]) + chunk.choices[0].text
                result["finish_reason"] = chunk.choices[0].finish_reason
                first.set()
        except Exception as error:
            result["error"] = error
            first.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    first.wait()
    return thread, result


def test_it_tells_what_it_has_answers_and_drains_on_sigterm():
    with serving() as server:
        for words in (
            "bfloat16 and 4-bit+8-bit, 93 MiB of weights",
            "blocks of 16 tokens",
            "ready after",
            "import torch",
        ):
            assert words in server.printed
        answer = server.client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=30)
        assert "Tokyo" in (answer.choices[0].message.content or "")
        thread, result = start_streaming(server, max_tokens=60)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Draining" in server.printed)
        with pytest.raises(Exception, match=r"503|Connection"):
            server.client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=2)
        thread.join()
        assert (result["error"], result["finish_reason"]) == (None, "length")
        assert server.wait() == 0


def test_a_second_sigterm_stops_at_once():
    with serving() as server:
        thread, result = start_streaming(server, max_tokens=900)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Draining" in server.printed)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 1
        thread.join()
        assert result["error"] is not None or result["finish_reason"] is None


def test_the_engines_death_ends_open_requests_and_the_server():
    with serving() as server:
        [engine] = psutil.Process(server.process.pid).children()
        thread, result = start_streaming(server, max_tokens=900)
        os.kill(engine.pid, signal.SIGKILL)
        assert server.wait() == 1
        thread.join()
        assert "the engine has stopped" in str(result["error"])
        assert "the engine has failed" in server.printed


@pytest.fixture(scope="module")
def scripted() -> Iterator[Server]:
    """A server started by the name in people's scripts."""
    command = [sys.executable, "-m", "octavo.entrypoints.openai.api_server"]
    with serving("--tensor-parallel-size", "1", command=command) as server:
        yield server


def test_the_name_in_peoples_scripts_serves_too(scripted: Server):
    assert scripted.client.models.list().data[0].id == "smollm2"


def test_an_idle_server_uses_next_to_no_processor_time(scripted: Server):
    scripted.client.completions.create(model="smollm2", prompt="Hi", max_tokens=2)
    main = psutil.Process(scripted.process.pid)
    processes = [main, *main.children()]

    def used_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def used_in_three_seconds() -> float:
        before_s = used_s()
        time.sleep(3)
        return used_s() - before_s

    until(lambda: used_in_three_seconds() <= 0.03)


def test_a_terminal_chat_talks_to_it(scripted: Server):
    done = subprocess.run(
        [sys.executable, "-m", "octavo.cli.main", "chat", "--url", scripted.url, "--temperature", "0"],
        input="What is the capital of Japan?\n/reset\nSay hello.\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Tokyo" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--model", "/nowhere"], "--model"),
        (["--kv-cache-memory", "1KiB"], "--kv-cache-memory"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(flags, words):
    done = subprocess.run([*SERVE, "--port", "0", *flags], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*SERVE, "--port", port], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"--port {port}" in done.stderr
    assert "Loading" not in done.stderr


def test_no_server_is_said_by_chat_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "octavo.cli.main", "chat", "--url", "http://127.0.0.1:9/v1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "octavo serve" in done.stderr
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen("http://127.0.0.1:9/")
