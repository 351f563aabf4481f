"""HTTP as browsers, probes, proxies and SDKs speak it: origins, keys, methods, ids, addresses and unreadable bodies."""

import gzip
import json
import logging
import socket
import time
from typing import Any

import httpx
import pytest

from octavo.errors import ConfigError
from octavo.server.listener import open_listeners
from octavo.server_config import ServerConfig
from server.conftest import Server

CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
JSON = {"content-type": "application/json"}
PAGE = "http://localhost:3000"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


def test_a_page_of_a_listed_origin_may_ask_and_its_preflight_needs_no_key(serve: Any) -> None:
    origins = ("https://chat.example", PAGE)
    with serve(api_key=("k",), allowed_origin=origins) as server, server.http() as http:
        for path in (CHAT, COMPLETE, "/v1/models"):
            preflight = http.options(path, headers=PREFLIGHT)
            assert preflight.is_success
            assert preflight.headers["access-control-allow-origin"] == PAGE
            assert "authorization" in preflight.headers["access-control-allow-headers"]
            assert "POST" in preflight.headers["access-control-allow-methods"]
        answers = [
            http.get("/v1/models", headers={"origin": PAGE, "authorization": "Bearer k"}),
            http.post(COMPLETE, json={"n": 0}, headers={"origin": PAGE, "authorization": "Bearer k"}),
            http.get("/v1/models", headers={"origin": PAGE}),
        ]
        assert [answer.status_code for answer in answers] == [200, 400, 401]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == PAGE, "a page can read its errors too"
        other = http.options(CHAT, headers=PREFLIGHT | {"origin": "https://evil.example"})
        assert not other.is_success
        assert "access-control-allow-origin" not in other.headers


def test_without_the_flag_no_origin_is_listed(server: Server) -> None:
    with server.http() as http:
        assert http.options(CHAT, headers=PREFLIGHT).status_code == 405
        assert "access-control-allow-origin" not in http.get("/v1/models", headers={"origin": PAGE}).headers


def test_all_origins_can_be_allowed(serve: Any) -> None:
    with serve(allowed_origin=("*",)) as server, server.http() as http:
        assert http.options(CHAT, headers=PREFLIGHT).headers["access-control-allow-origin"] == "*"
        assert http.get("/v1/models", headers={"origin": PAGE}).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("origin", "instead"),
    [
        ("http://localhost:3000/", "http://localhost:3000"),
        ("HTTP://Localhost:3000", "http://localhost:3000"),
        ("https://chat.example:443", "https://chat.example"),
        (" http://a", "http://a"),
        ("http://a/path", "http://a"),
        ("localhost:3000", "http://localhost:3000"),
        ("chat.example", "http://localhost:3000"),
        ("http://a:port", "http://localhost:3000"),
        ("https://*.example", "http://localhost:3000"),
        ("https://a.example, https://b.example", "http://localhost:3000"),
        ("http://localhost:3000,http://localhost:3001", "http://localhost:3000"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_at_start(origin: str, instead: str) -> None:
    with pytest.raises(ConfigError, match=f"--allowed-origin .* {instead}"):
        ServerConfig(allowed_origin=(origin,))


@pytest.mark.parametrize("key", [" k", "k ", "k\n", "\tk", "k\r", " ", "a\x00b", "k\u200b", "\ufeffk"])
def test_a_key_that_no_request_could_bring_is_refused_at_start(key: str) -> None:
    with pytest.raises(ConfigError, match="--api-key") as refusal:
        ServerConfig(api_key=("good", key))
    assert "good" not in str(refusal.value)


def test_a_key_may_come_in_either_header(serve: Any) -> None:
    with serve(api_key=("first", "zweiter-schlüssel")) as server, server.http() as http:
        for headers, status in [
            ({b"x-api-key": b"first"}, 200),
            ({b"X-Api-Key": b"first"}, 200),
            ({b"x-api-key": b"second"}, 401),
            ({b"x-api-key": b""}, 401),
            ({b"x-api-key": "zweiter-schlüssel".encode()}, 200),
            ({b"authorization": "Bearer zweiter-schlüssel".encode("latin-1")}, 200),
            ({b"authorization": b"Bearer EMPTY", b"x-api-key": b"first"}, 200),
            ({b"authorization": b"Bearer first", b"x-api-key": b"second"}, 200),
            ({b"authorization": b"first"}, 401),
        ]:
            assert http.get("/v1/models", headers=list(headers.items())).status_code == status, headers


def test_monitors_need_the_key_only_where_the_server_is_told_so(serve: Any) -> None:
    with serve(api_key=("k",)) as server, server.http() as http:
        assert http.get("/health").status_code == http.get("/metrics").status_code == 200
    with serve(api_key=("k",), protect_metrics=True) as server, server.http() as http:
        assert http.get("/health").status_code == http.get("/metrics").status_code == 401
        assert http.get("/live").status_code == http.get("/ready").status_code == 200
        assert http.get("/metrics", headers={"x-api-key": "k"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/live", "/ready", "/health", "/v1/models", "/v1/models/smollm2", "/metrics", "/openapi.json", "/nowhere"]
)
def test_head_is_get_without_the_body(server: Server, path: str) -> None:
    with server.http() as http:
        head, get = http.head(path), http.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.content == b""


def test_a_clients_request_id_is_kept_as_far_as_it_fits(server: Server) -> None:
    with server.http() as http:
        for given, kept in [("abc-123", "abc-123"), ("a b\tc", "abc"), ("x" * 500, "x" * 128), ("größe", "gre")]:
            answer = http.get("/live", headers=[(b"X-Request-Id", given.encode("latin-1"))])
            assert answer.headers["x-request-id"] == kept
        named = http.post(COMPLETE, json={"prompt": "a", "max_tokens": 1}, headers={"x-request-id": "mine"})
        assert named.headers["x-request-id"] == "mine"
        assert named.json()["id"] == "cmpl-mine"
        refused = http.post(COMPLETE, json={}, headers={"x-request-id": "mine"})
        assert refused.headers["x-request-id"] == "mine"
        assert len({http.get("/live", headers={"x-request-id": ""}).headers["x-request-id"] for _ in range(3)}) == 3


@pytest.mark.parametrize("path", [CHAT, COMPLETE])
@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (gzip.compress(b'{"prompt": "a"}', mtime=0), {"content-encoding": "gzip"}, 415, "Content-Encoding gzip"),
        (b"{}", {"content-encoding": "br, deflate"}, 415, "Content-Encoding br, deflate"),
        (b"{}", {"content-type": "text/json"}, 415, "application/json"),
        (b"\xff{}", {}, 400, "byte 0 is not UTF-8"),
        (b'{"prompt": "\xc3("}', {}, 400, "byte 12 is not UTF-8"),
        (b'{"prompt": "' + "ä".encode("latin-1") + b'"}', {}, 400, "UTF-8"),
        (b"[" * 100_000, {}, 400, "nested too deeply"),
        (b'{"prompt":' * 50_000 + b"1" + b"}" * 50_000, {}, 400, "nested too deeply"),
        (b'{"n": ' + b"1" * 5000 + b"}", {}, 400, "digits"),
        (b'{"prompt": "a"', {}, 400, "not valid JSON"),
        (b"{'prompt': 'a'}", {}, 400, "not valid JSON"),
        (b'{"prompt": "a"} x', {}, 400, "not valid JSON"),
        (b"\x00", {}, 400, "not valid JSON"),
        (b"", {}, 400, ""),
        (b"null", {}, 400, ""),
        (b"1e999", {}, 400, ""),
        (b'"a"', {}, 400, ""),
        (b"[{}]", {}, 400, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_cannot_be_read_is_told_why(
    server: Server, path: str, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    with server.http() as http:
        answer = http.post(path, content=content, headers=JSON | headers)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_body_with_a_byte_order_mark_or_the_identity_encoding_is_read(server: Server) -> None:
    content = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
    with server.http() as http:
        for body, headers in [
            (b"\xef\xbb\xbf" + content, JSON),
            (content, JSON | {"content-encoding": "identity"}),
            (content, {"content-type": "application/json; charset=utf-8"}),
        ]:
            assert http.post(COMPLETE, content=body, headers=headers).status_code == 200


def reachable(config: ServerConfig, hosts: list[str]) -> list[bool]:
    """At which addresses the listeners of a configuration take a connection."""
    listeners = open_listeners(config)
    port = listeners[0].getsockname()[1]
    found = []
    for host in hosts:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError:
            found.append(False)
        else:
            found.append(True)
    for listener in listeners:
        listener.close()
    return found


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_the_host_says_which_families_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["127.0.0.1", "::1"]
    for host, wanted in [
        ("::", [True, True]),
        ("0.0.0.0", [True, False]),
        ("127.0.0.1", [True, False]),
        ("::1", [False, True]),
        ("::ffff:127.0.0.1", [True, False]),
    ]:
        assert reachable(ServerConfig(host=host, port=0, insecure=True), both) == wanted, host
    real = socket.getaddrinfo

    def with_both(host: str | None, port: int, *arguments: Any, **options: Any) -> list[Any]:
        names = both if host == "localhost" else [host]
        return [found for name in names for found in real(name, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", with_both)
    assert reachable(ServerConfig(host="localhost", port=0), both) == [True, True]


def test_a_host_that_is_not_here_is_told() -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match=f"--host {host}"):
            open_listeners(ServerConfig(host=host, port=0, insecure=True))


def test_answers_are_http_that_httpx_understands(server: Server) -> None:
    """A client that asks to be told before it sends its body is told."""
    with server.http() as http:
        answer = http.post(COMPLETE, json={"prompt": "a", "max_tokens": 1}, headers={"expect": "100-continue"})
    assert answer.status_code == httpx.codes.OK


@pytest.mark.parametrize("key", [None, "key"], ids=["while it is read", "once it is answered"])
def test_a_chunk_that_is_no_http_ends_the_request_and_fills_no_log(serve: Any, caplog: Any, key: str | None) -> None:
    fields = ("Host: a", "Content-Type: application/json", "Transfer-Encoding: chunked")
    head = "\r\n".join((f"POST {COMPLETE} HTTP/1.1", *fields, "", ""))
    with serve(api_key=(key,) if key else ()) as server, server.http() as http:
        for pause_s in (0.0, 0.2):
            with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), timeout=10) as client:
                client.sendall(head.encode())
                time.sleep(pause_s)
                client.sendall(b"ZZ\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 4")
        assert http.get("/live").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/v1/images/generations", 404), ("GET", COMPLETE, 405)]
)
def test_what_is_not_served_is_refused_by_its_method_and_path(server: Server, method: str, path: str, status: int):
    with server.http() as http:
        answer = http.request(method, path)
    assert answer.status_code == status
    assert f"there is no {method} {path} here; /openapi.json" in answer.json()["error"]["message"]
