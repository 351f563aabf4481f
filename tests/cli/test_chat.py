"""`octavo chat` against a server whose answers are given, and in a pseudo-terminal."""

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cli.commands import octavo

PATIENCE_S = 30.0
MODELS = b'{"data": [{"id": "tiny"}]}'
Answer = Callable[[list[dict[str, str]]], tuple[int, bytes]]


def event(text: str, **delta: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text, **delta}}]}).encode() + b"\n\n"


def whole(text: str) -> tuple[int, bytes]:
    return 200, event(text) + b"data: [DONE]\n\n"


@contextmanager
def serving(answer: Answer, models: bytes = MODELS) -> Iterator[str]:
    """The base URL of a server that answers a conversation as it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200 if self.path == "/v1/models" else 404, models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*answer(body["messages"]))

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


class Terminal:
    """`octavo chat` in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._own, its = pty.openpty()
        command = [sys.executable, "-m", "octavo.cli.main", "chat", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(its, termios.TIOCSCTTY, 0),
        )
        os.close(its)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def wait_for(self, words: str) -> None:
        """Read until the terminal shows these words beyond what was waited for before."""
        assert self._shows(words, PATIENCE_S), self.seen

    def interrupt(self) -> None:
        """Ctrl-C until the prompt is back: Python misses one that comes just before it waits for a key."""
        assert any(self._interrupts() for _ in range(int(PATIENCE_S)))

    def _interrupts(self) -> bool:
        self.type("\x03")
        return self._shows("> ", 1.0)

    def _shows(self, words: str, within_s: float) -> bool:
        deadline_s = time.monotonic() + within_s
        while words not in self.seen:
            if not select.select([self._own], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                return False
            self.seen += os.read(self._own, 4096).decode()
        self.seen = self.seen.partition(words)[2]
        return True


def test_lines_from_a_pipe_are_answered_within_one_conversation():
    with serving(lambda messages: whole(f"answer to {len(messages)}")) as url:
        done = octavo("chat", "--url", url, stdin="one\n\ntwo\n")
    assert (done.returncode, done.stdout) == (0, "answer to 1\nanswer to 3\n")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("127.0.0.1:8000", "--url must be an address"),
        ("http://[/v1", "--url must be an address"),
        ("http:///v1", "--url must be an address"),
        ("http://127.0.0.1:99999/v1", "--url must be an address"),
        ("http://127.0.0.1:8000/v1 x", "--url must be an address"),
    ],
)
def test_what_is_no_address_is_refused_by_its_flag(url, words):
    done = octavo("chat", "--url", url)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_key_that_no_header_can_carry_is_refused_by_its_flag():
    done = octavo("chat", "--api-key", "clé€")
    assert done.returncode == 2
    assert "--api-key must be printable ASCII" in done.stderr


def test_an_address_without_v1_is_told_what_it_may_lack():
    with serving(lambda _: whole("")) as url:
        done = octavo("chat", "--url", url.removesuffix("/v1"))
    assert done.returncode == 1
    assert "--url ends in /v1" in done.stderr


@pytest.mark.parametrize(
    ("models", "words"),
    [(b"<html>", "does not speak OpenAI's format"), (b"[]", "lists no model"), (b'{"data": []}', "lists no model")],
)
def test_a_server_of_another_kind_is_told_in_a_line(models, words):
    with serving(lambda _: whole(""), models) as url:
        done = octavo("chat", "--url", url)
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, event("hel")), "broke off before the answer's end"),
        ((200, event("hel") + b"data: {\n\n"), "does not speak OpenAI's format"),
        ((200, event("hel") + b'data: {"error": {"message": "out of luck"}}\n\n'), "out of luck"),
        ((502, b"<html>"), "the server answered 502"),
        ((400, b'{"error": "too long"}'), "too long"),
    ],
)
def test_an_answer_that_fails_ends_a_piped_conversation_with_an_error(answer, words):
    with serving(lambda _: answer) as url:
        done = octavo("chat", "--url", url, stdin="one\ntwo\n")
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stdout in ("", "hel")


def test_lines_of_a_stream_that_are_no_data_are_passed_over():
    with serving(lambda _: (200, b": still thinking\n\nevent: chunk\n" + whole("yes")[1])) as url:
        done = octavo("chat", "--url", url, stdin="one\n")
    assert (done.returncode, done.stdout) == (0, "yes\n")


def test_what_a_model_thinks_is_dim_in_a_terminal_and_no_part_of_the_conversation():
    def answer(messages: list[dict[str, str]]) -> tuple[int, bytes]:
        said = [message["content"] for message in messages]
        return 200, event("", reasoning_content="hm") + event("", reasoning="mm") + whole(f"heard {said}")[1]

    with serving(answer) as url:
        piped = octavo("chat", "--url", url, stdin="one\n")
        terminal = Terminal("--url", url)
        terminal.wait_for("> ")
        terminal.type("one\n")
        terminal.wait_for("\x1b[2mhmmm\x1b[0m\r\nheard ['one']")
        terminal.type("two\n")
        terminal.wait_for("heard ['one', \"heard ['one']\", 'two']")
        terminal.type("/quit\n")
        assert terminal.process.wait(PATIENCE_S) == 0
    assert piped.stdout == "heard ['one']\n"


def test_a_refused_line_is_forgotten_so_that_the_next_is_answered():
    def answer(messages: list[dict[str, str]]) -> tuple[int, bytes]:
        too_long = any(len(message["content"]) > 100 for message in messages)
        return (400, b'{"error": {"message": "too long"}}') if too_long else whole(f"answer to {len(messages)}")

    with serving(answer) as url:
        terminal = Terminal("--url", url)
        terminal.wait_for("> ")
        terminal.type("x" * 200 + "\n")
        terminal.wait_for("[too long]")
        terminal.type("short\n")
        terminal.wait_for("answer to 1")
        terminal.type("/quit\n")
        assert terminal.process.wait(PATIENCE_S) == 0


def test_control_c_clears_a_line_and_the_conversation_goes_on():
    with serving(lambda messages: whole(f"answer to {messages[-1]['content']}")) as url:
        terminal = Terminal("--url", url)
        terminal.wait_for("> ")
        terminal.type("half a li")
        terminal.wait_for("half a li")
        terminal.interrupt()
        terminal.type("/help\n")
        terminal.wait_for("/reset forgets")
        terminal.type("whole\n")
        terminal.wait_for("answer to whole")
        terminal.wait_for("> ")  # between two prompts the terminal itself would take the key, and lose it
        terminal.type("\x04")
        assert terminal.process.wait(PATIENCE_S) == 0


def test_input_that_is_no_text_is_told_in_a_line():
    with serving(lambda _: whole("")) as url:
        command = [sys.executable, "-m", "octavo.cli.main", "chat", "--url", url]
        done = subprocess.run(command, input=b"caf\xe9\n", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"standard input is not UTF-8 text" in done.stderr
    assert b"Traceback" not in done.stderr
