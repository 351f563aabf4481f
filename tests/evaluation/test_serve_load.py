"""Open-loop load: on a real server, and on a stub that does what servers seldom do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from e2e.server_process import Server as ServerProcess
from e2e.server_process import serving
from octavo.errors import ConfigError, EngineError
from octavo.evaluation.serve_load import LoadFigures, Server, Timing, apply_load, figures_of
from octavo.evaluation.workloads import Work, draw_workload
from tiny_checkpoints import make_llama

WORK = [Work([200 + number, 300, 400], 4 + number) for number in range(6)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = make_llama(tmp_path_factory.mktemp("tiny"), vocab_size=49_152, max_position_embeddings=1024)
    with serving("--model", str(folder), "--tokenizer", "smollm2", "--api-key", "secret") as process:
        yield process


def test_a_real_server_answers_every_token_that_was_asked_for(running: ServerProcess) -> None:
    finished: list[None] = []
    server = Server(running.url, "secret")
    figures = apply_load(server, WORK, 50.0, seed=0, done=lambda: finished.append(None))
    assert (figures.requests, figures.failed, figures.errors, len(finished)) == (6, 0, [], 6)
    assert len(figures.first_token_ms) == 3
    assert 0 < figures.first_token_ms[0] <= figures.first_token_ms[2]


def test_figures_are_those_of_the_times_from_each_arrival_on() -> None:
    """One of 4 tokens in 2 s, one of 2 tokens in 3 s, and one that failed."""
    figures = figures_of(
        [
            Timing(10.0, 12.0, [10.5, 11.0, 11.5, 12.0], num_tokens=4),
            Timing(11.0, 14.0, [13.0, 14.0], num_tokens=2),
            Timing(12.0, 12.5, [12.25], num_tokens=1, error="the stream broke off"),
        ],
        request_rate=1.0,
    )
    assert (figures.requests, figures.failed, figures.errors) == (3, 1, ["the stream broke off"])
    assert figures.seconds == 4.0
    assert figures.output_tok_s == 6 / 4
    assert figures.normalized_latency_s == (2 / 4 + 3 / 2) / 2
    assert figures.first_token_ms == [1250.0, 1850.0, 1985.0]
    assert figures.between_tokens_ms == [500.0, 850.0, 985.0]


def test_the_path_may_be_left_out_of_the_address(running: ServerProcess) -> None:
    server = Server(running.url.removesuffix("/v1"), "secret")
    assert apply_load(server, WORK[:1], 50.0, seed=0).failed == 0


def test_a_server_that_does_not_let_us_in_says_why(running: ServerProcess) -> None:
    with pytest.raises(EngineError, match="status 401"):
        Server(running.url, "wrong")


def test_refused_requests_are_counted_with_the_servers_words_and_spoil_nothing(running: ServerProcess) -> None:
    figures = apply_load(Server(running.url, "secret"), [*WORK, Work([1] * 2000, 10)], 100.0, seed=0)
    assert (figures.requests, figures.failed) == (7, 1)
    assert "status 400" in figures.errors[0]
    assert "1024" in figures.errors[0]
    assert figures.normalized_latency_s is not None


def test_a_whole_rate_that_fails_has_no_latencies(running: ServerProcess) -> None:
    figures = apply_load(Server(running.url, "secret"), [Work([10**6], 10)], 100.0, seed=0)
    assert figures.failed == 1
    assert (figures.normalized_latency_s, figures.first_token_ms, figures.between_tokens_ms) == (None, [], [])


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://localhost", "http://", "http://localhost:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--base-url"):
        Server(address, None)


def test_an_address_where_nobody_listens_is_told() -> None:
    with pytest.raises(EngineError, match=r"--base-url http://127.0.0.1:9 "):
        Server("http://127.0.0.1:9", None)


@contextmanager
def stub(answer: Callable[[Any], list[bytes]]) -> Iterator[Server]:
    """A server that answers each completion with these lines."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send([json.dumps({"data": [{"id": "stub"}]}).encode()])

        def do_POST(self) -> None:
            self._send(answer(json.loads(self.rfile.read(int(self.headers["content-length"])))))

        def _send(self, lines: list[bytes]) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\n\n".join([*lines, b""]))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield Server(f"http://127.0.0.1:{http.server_port}", None)
        http.shutdown()


TOKEN, DONE = b'data: {"choices": [{"index": 0, "text": "a"}]}', b"data: [DONE]"


def usage(tokens: int) -> bytes:
    return b'data: {"choices": [], "usage": {"completion_tokens": %d}}' % tokens


def load(answer: Callable[[Any], list[bytes]], num_requests: int = 1) -> LoadFigures:
    with stub(answer) as server:
        return apply_load(server, draw_workload("alpaca", num_requests, 1.0, 0), 200.0, seed=0)


def test_requests_arrive_whether_or_not_earlier_ones_are_answered() -> None:
    """This server answers nobody before all are there."""
    everybody = threading.Barrier(12)

    def answer(_: Any) -> list[bytes]:
        everybody.wait(20)
        return [TOKEN, TOKEN, usage(2), DONE]

    figures = load(answer, 12)
    assert (figures.failed, figures.errors) == (0, [])


def test_requests_ask_for_exactly_the_works_tokens_greedily() -> None:
    bodies: list[Any] = []

    def answer(body: Any) -> list[bytes]:
        bodies.append(body)
        return [TOKEN, usage(1), DONE]

    load(answer, 3)
    asked = sorted((body["prompt"], body["max_tokens"]) for body in bodies)
    assert asked == sorted((w.ids, w.out) for w in draw_workload("alpaca", 3, 1.0, 0))
    assert all(body["temperature"] == 0 and body["ignore_eos"] and body["stream"] for body in bodies)


@pytest.mark.parametrize(("num_events", "num_percentiles"), [(1, 0), (2, 3), (5, 3)])
def test_gaps_are_between_the_events_of_a_stream(num_events: int, num_percentiles: int) -> None:
    figures = load(lambda _: [*[TOKEN] * num_events, usage(num_events), DONE])
    assert len(figures.between_tokens_ms) == num_percentiles


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([TOKEN], "broke off"),
        ([TOKEN, b'data: {"error": {"message": "the engine died"}}', DONE], "the engine died"),
        ([TOKEN, DONE], "no usage"),
        ([usage(1), DONE], "no tokens"),
        ([b"data: nonsense", DONE], "malformed"),
    ],
)
def test_an_answer_that_goes_wrong_has_failed(lines: list[bytes], words: str) -> None:
    figures = load(lambda _: lines)
    assert figures.failed == 1
    assert words in figures.errors[0]
