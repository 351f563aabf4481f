"""A server process under the limits of its system, and under signals, with more connections than it likes."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from e2e.server_process import SERVE, Server, serving, until

LITTLE = ("--kv-cache-memory", "64MiB", "--num-threads", "1")
FEW_FILES = ["bash", "-c", 'ulimit -n 128; exec "$@"', "bash"]
NOHUP = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash"]


@contextlib.contextmanager
def connections(server: Server, count: int, begin: bytes = b"") -> Iterator[None]:
    with contextlib.ExitStack() as opened:
        for _ in range(count):
            connection = opened.enter_context(socket.create_connection(address(server)))
            connection.sendall(begin)
        yield


def address(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    return host, int(port)


def completion_status(server: Server) -> int:
    connection = http.client.HTTPConnection(*address(server), timeout=60)
    body = json.dumps({"prompt": "a", "max_tokens": 1})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json", "x-api-key": "k"})
    with contextlib.closing(connection):
        return connection.getresponse().status


@pytest.mark.parametrize(("path", "number"), [("/live", signal.SIGTERM), ("/v1/completions", signal.SIGHUP)])
def test_a_signal_ends_a_server_full_of_unfinished_requests_without_a_traceback(path: str, number: int) -> None:
    begin = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n{{"
    with serving(*LITTLE, "--max-queued-requests", "8") as server, connections(server, 400, begin.encode()):
        assert completion_status(server) == 200
        server.process.send_signal(number)
        assert server.process.wait(timeout=25) == 0, "sooner than any time limit"
    assert "Draining" in server.printed
    assert "Traceback" not in server.printed


def test_few_open_files_and_many_idle_connections_leave_the_server_answering() -> None:
    with serving(*LITTLE, command=[*FEW_FILES, *SERVE]) as server, connections(server, 300):
        for _ in range(3):
            assert completion_status(server) == 200
    assert server.printed.count("--max-connections") == 1
    assert "Too many open files" not in server.printed


def test_more_connections_than_files_are_refused_at_start() -> None:
    flags = ["--port", "0", "--max-connections", "100"]
    done = subprocess.run([*FEW_FILES, *SERVE, *flags], capture_output=True, text=True)
    assert done.returncode == 2
    assert "ulimit -n" in done.stderr.splitlines()[-1]
    assert "Loading" not in done.stderr


def test_a_server_that_is_to_outlive_its_terminal_does() -> None:
    with serving(*LITTLE, command=[*NOHUP, *SERVE]) as server:
        server.process.send_signal(signal.SIGHUP)
        assert completion_status(server) == 200
        server.process.send_signal(signal.SIGINT)
        until(lambda: server.process.poll() == 0)
