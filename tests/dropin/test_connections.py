"""Connections are bounded in number and in time, and none keeps others from being served."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from octavo.engine.stream import RequestStream
from octavo.errors import RequestError
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import EngineRequest
from octavo.server.http_protocol import HttpProtocol
from octavo.server.openai.event_stream import DATA_EVENTS, event_stream
from server.conftest import Server, send, until

COMPLETE = "/v1/completions"
SHORT: dict[str, Any] = {"prompt": "a", "max_tokens": 1}
LONG: dict[str, Any] = {"prompt": "a", "max_tokens": 480, "ignore_eos": True}


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def clients(server: Server) -> dict[Any, HttpProtocol]:
    """The server's connections by the address of the other side."""
    connections = cast(set[HttpProtocol], server.http_server.server_state.connections)
    return {connection.client: connection for connection in list(connections)}


def head(path: str, length: int, method: str = "POST") -> bytes:
    kind = "Content-Type: application/json\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{kind}Content-Length: {length}\r\n\r\n".encode()


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes or resets."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


@contextlib.contextmanager
def unfinished(server: Server, path: str, count: int) -> Iterator[list[socket.socket]]:
    """Requests of which one byte of a large body has come."""
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(connect(server)) for _ in range(count)]
        for connection in connections:
            connection.sendall(head(path, 8_000_000) + b"{")
        yield connections


def test_an_answer_is_not_delayed_by_the_network(server: Server) -> None:
    with connect(server) as client:
        until(lambda: client.getsockname() in clients(server))
        accepted = clients(server)[client.getsockname()].transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("path", ["/live", "/nowhere", "/v1/models", COMPLETE])
def test_bodies_that_never_come_take_no_place_from_others(serve: Any, path: str) -> None:
    """With a key or without, to a path that takes bodies or not."""
    with serve(max_queued_requests=2) as server, unfinished(server, path, 10), server.http() as http:
        for _ in range(3):
            assert http.post(COMPLETE, json=SHORT).status_code == 200
        until(lambda: server.num_in_server == 0)


def test_without_a_key_nothing_is_read_of_a_body(serve: Any) -> None:
    with serve(api_key=("k",)) as server, unfinished(server, COMPLETE, 3) as connections:
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        with server.http(headers={"authorization": "Bearer k"}) as http:
            assert http.post(COMPLETE, json=SHORT).status_code == 200


def test_a_full_server_reads_no_body(serve: Any) -> None:
    with serve(max_queued_requests=1) as server, contextlib.closing(send(server, LONG)):
        until(lambda: server.num_in_server == 1)
        with unfinished(server, COMPLETE, 1) as [connection]:
            assert connection.recv(65536).startswith(b"HTTP/1.1 429 ")


def test_a_body_that_takes_too_long_is_refused(serve: Any) -> None:
    with serve(receive_timeout=1) as server, unfinished(server, COMPLETE, 1) as [connection]:
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"--receive-timeout" in answer


def test_a_head_that_takes_too_long_ends_the_connection(serve: Any) -> None:
    with serve(receive_timeout=1) as server, connect(server) as connection:
        started_s = time.monotonic()
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            while time.monotonic() < started_s + 20:  # slow, but never silent
                connection.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        assert time.monotonic() < started_s + 20


def test_an_idle_connection_is_kept_for_as_long_as_the_flag_says(serve: Any) -> None:
    ask = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
    with serve(keep_alive_timeout=1) as server, connect(server) as silent, connect(server) as used:
        used.sendall(ask)
        assert received(used).startswith(b"HTTP/1.1 200 "), "and then it is closed"
        assert received(silent) == b""
    with serve() as server:
        host, port = server.url.removeprefix("http://").split(":")
        kept = http.client.HTTPConnection(host, int(port), timeout=20)
        kept.connect()
        kept.auto_open = 0  # a second connection is an error
        for _ in range(2):
            kept.request("GET", "/live")
            assert kept.getresponse().read()
            time.sleep(6)
        kept.close()


def test_all_bodies_together_are_bounded(serve: Any) -> None:
    body = json.dumps({"prompt": "a" * 600, "max_tokens": 1}).encode()
    with serve(max_total_body_bytes="1KB") as server, server.http() as http:
        with connect(server) as slow:
            slow.sendall(head(COMPLETE, 700) + b" " * 600)
            answers: list[int] = []

            def is_refused() -> bool:
                answer = http.post(COMPLETE, content=body, headers={"content-type": "application/json"})
                answers.append(answer.status_code)
                return answer.status_code == 429 and "--max-total-body-bytes" in answer.text

            until(is_refused)
        until(lambda: not is_refused())
        assert answers[-1] == 200, "what a body held is given back"


def test_past_the_limit_of_connections_the_idlest_gives_way(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    with serve(max_connections=5) as server, contextlib.ExitStack() as opened:
        busy = opened.enter_context(contextlib.closing(send(server, LONG | {"stream": True})))
        assert busy.recv(9) == b"HTTP/1.1 "
        for _ in range(30):
            opened.enter_context(connect(server))
        for _ in range(3):
            with server.http() as http:
                assert http.get("/live").status_code == 200
        until(lambda: len(server.http_server.server_state.connections) <= 5)
        assert busy.getsockname() in clients(server), "work is not what gives way"
    told = [record for record in caplog.records if "--max-connections" in record.getMessage()]
    assert len(told) == 1


def test_where_all_connections_are_at_work_a_new_one_is_told(serve: Any) -> None:
    with serve(max_connections=1) as server, contextlib.closing(send(server, LONG)):
        until(lambda: server.num_in_server == 1)
        with connect(server) as connection:
            answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_many_connections"


def test_a_reader_that_never_reads_loses_its_request(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it has asked for, within the time that is allowed."""
    endless = DATA_EVENTS._replace(end=b" " * 20_000_000)
    monkeypatch.setattr(event_stream, "__defaults__", (endless,))
    with serve(send_timeout=1) as server, contextlib.closing(send(server, SHORT | {"stream": True})):
        until(lambda: server.num_in_server == 1)
        until(lambda: server.num_in_server == 0 and server.background.is_idle())


def test_a_reader_too_many_tokens_behind_loses_its_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.stream.MAX_WAITING_TOKENS", 20)
    client, params = server.front.client, SamplingParams(max_tokens=400, n=4, ignore_eos=True)

    async def submit() -> RequestStream:
        return client.submit(EngineRequest("slow", [1], params, time.monotonic(), 0))

    async def read(stream: RequestStream) -> int:
        return sum([1 async for _ in stream])

    stream = server.background.run(submit())
    until(lambda: server.background.is_idle())
    with pytest.raises(RequestError, match="tokens behind"):
        server.background.run(read(stream))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_has_closed_its_side_gets_its_answer(server: Server, stream: bool) -> None:
    with contextlib.closing(send(server, SHORT | {"max_tokens": 10, "stream": stream})) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(20)
        answer = received(connection)
    assert b"HTTP/1.1 200 " in answer
    assert b'"finish_reason":"' in answer


def test_pipelined_requests_are_all_answered_after_the_client_has_closed_its_side(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        connection.shutdown(socket.SHUT_WR)
        assert received(connection).count(b"HTTP/1.1 200 ") == 3


def test_a_client_that_closes_its_side_before_the_body_is_whole_leaves(server: Server) -> None:
    with unfinished(server, COMPLETE, 1) as [connection]:
        connection.shutdown(socket.SHUT_WR)
        assert received(connection) == b""


def test_what_is_no_http_is_told_so(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"hello\r\n\r\n")
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("beginning", ["HTTP/1.1\r\nConnection: close", "HTTP/1.0", "chunk"])
def test_a_client_that_reads_when_it_has_sent_all_finds_its_refusal(serve: Any, beginning: str) -> None:
    """Closing while bytes of the client's come would reset the connection, and lose what was answered."""
    body, status = b" " * 9_000_000, b"413"
    with serve(max_body_bytes="1MB") as server, connect(server) as connection:
        if beginning == "chunk":
            request, body, status = (
                head(COMPLETE, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"),
                b"x" * 9_000_000,
                b"400",
            )
        else:
            request = head(COMPLETE, len(body)).replace(b"HTTP/1.1", beginning.encode(), 1)
        connection.sendall(request + body)
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
        assert answer.split(b" ")[1] == status
        until(lambda: not clients(server))


@pytest.mark.parametrize(("path", "status"), [(COMPLETE, b"413"), ("/nowhere", b"404")])
def test_a_client_that_is_answered_before_it_may_send_is_told_to_connect_anew(
    serve: Any, path: str, status: bytes
) -> None:
    """Its next request would be taken for the body that it has announced."""
    with serve(max_body_bytes="1MB") as server, connect(server) as connection:
        connection.settimeout(2)
        expecting = head(path, 9_000_000).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")
        connection.sendall(expecting)
        answer = received(connection)
    assert answer.split(b" ")[1] == status
    assert b"connection: close" in answer.lower()


def test_stopping_ends_unfinished_requests_at_once(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.ExitStack() as opened, serve() as server:
        opened.enter_context(unfinished(server, COMPLETE, 100))
        opened.enter_context(unfinished(server, "/live", 100))
        opened.enter_context(connect(server))
        until(lambda: len(server.http_server.server_state.connections) == 201)
        server.http_server.stop(force=False)
        until(lambda: not server.http_server.server_state.connections)
    assert not [record for record in caplog.records if record.exc_info]
