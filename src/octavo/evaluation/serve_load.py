"""Load on a running server: requests arrive at a rate, whether or not earlier ones are done, and are timed.

Any server that speaks OpenAI's completions will do. Each request has a thread and a blocking connection of the
standard library, which costs the machine less a token than an asynchronous client does.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import msgspec

from octavo.errors import ConfigError, EngineError
from octavo.evaluation.percentiles import PERCENTILES, percentiles_ms
from octavo.evaluation.workloads import Work

SILENCE_S = 600
"""A request whose server says nothing for this long has failed."""


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How a server took one request rate; latencies are of the requests that it answered, from their arrivals on."""

    request_rate: float
    """Requests a second that arrived, on average."""
    requests: int
    failed: int
    errors: list[str]
    """What the failed ones were told, each text once."""
    seconds: float
    """From the first arrival until the last answer's end."""
    output_tok_s: float
    normalized_latency_s: float | None
    """Mean over requests of (end-to-end latency / output tokens) (paper, section 6.1); None where all failed."""
    first_token_ms: list[float]
    """At the percentiles of `PERCENTILES`."""
    between_tokens_ms: list[float]
    """Between events of a stream: a token each, or several where bytes of one character came apart."""


class _Choice(msgspec.Struct):
    index: int = 0


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Event(msgspec.Struct):
    """What is needed of a chunk of an answer."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


class Server:
    """A running server in OpenAI's format.

    Args:
        base_url: with or without the path; without, `/v1` is meant.

    Raises:
        ConfigError: `base_url` is not an address.
        EngineError: there is no such server, or it doesn't let us in.
    """

    def __init__(self, base_url: str, api_key: str | None) -> None:
        try:
            url = urlsplit(base_url)
            self._address = (url.hostname or "", url.port)
        except ValueError as error:
            raise ConfigError(f"--base-url {base_url}: {error}") from error
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ConfigError(f"--base-url {base_url} is not an address such as http://127.0.0.1:8000/v1")
        self._connection = HTTPSConnection if url.scheme == "https" else HTTPConnection
        self._path = url.path.rstrip("/") or "/v1"
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        try:
            with self._request("GET", "/models") as response:
                self._model = msgspec.json.decode(response.read())["data"][0]["id"]
        except (OSError, HTTPException, EngineError, msgspec.DecodeError, LookupError, TypeError) as error:
            raise EngineError(f"--base-url {base_url} does not tell its models: {_text(error)}") from error

    def answer(self, work: Work) -> Iterator[_Event]:
        """The events of a greedy stream, as they come.

        Raises:
            OSError, HTTPException, EngineError: it failed; the text says how.
        """
        body = {
            "model": self._model,
            "prompt": work.ids,
            "max_tokens": work.out,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self._request("POST", "/completions", msgspec.json.encode(body)) as response:
            for line in response:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data: "):
                    event = _decode_event(line[len(b"data: ") :])
                    if event.error is not None:
                        raise EngineError(_message(event.error))
                    yield event
        raise EngineError("the stream broke off")

    def _request(self, method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        """An answer that is under way; its connection closes with it."""
        connection = self._connection(*self._address, timeout=SILENCE_S)
        connection.request(method, self._path + path, body, {**self._headers, "connection": "close"})
        response = connection.getresponse()
        if response.status != 200:
            with response:
                raise EngineError(f"status {response.status}: {_refusal(response.read())}")
        return response


def apply_load(
    server: Server, work: list[Work], request_rate: float, seed: int, done: Callable[[], object] = lambda: None
) -> LoadFigures:
    """Send each request when its time comes, at the gaps of a Poisson process, and wait for all answers.

    Args:
        request_rate: requests a second, on average.
        seed: of the gaps.
        done: called after each request, from one thread at a time.
    """
    gaps, turn = random.Random(seed), threading.Lock()
    timings: list[Timing] = []
    threads: list[threading.Thread] = []

    def run(each: Work, timing: Timing) -> None:
        _take(server, each, timing)
        with turn:
            done()

    arrival_s = time.perf_counter()
    for each in work:
        arrival_s += gaps.expovariate(request_rate)
        time.sleep(max(0.0, arrival_s - time.perf_counter()))
        timings.append(Timing(arrival_s, arrival_s))
        threads.append(threading.Thread(target=run, args=(each, timings[-1]), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return figures_of(timings, request_rate)


@dataclass(slots=True)
class Timing:
    """When one request's tokens came."""

    arrival_s: float
    """When it was due: a client that is late is no excuse."""
    end_s: float
    event_times_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    error: str | None = None


def _take(server: Server, work: Work, timing: Timing) -> None:
    """Run a request. Whatever goes wrong is the timing's `error`."""
    try:
        for event in server.answer(work):
            if event.choices:
                timing.event_times_s.append(time.perf_counter())
            if event.usage is not None:
                timing.num_tokens = event.usage.completion_tokens
        if not (timing.num_tokens and timing.event_times_s):
            timing.error = "the answer has no tokens, or no usage that counts them"
    except (OSError, HTTPException, EngineError, msgspec.DecodeError) as error:
        timing.error = _text(error)
    timing.end_s = time.perf_counter()


def figures_of(timings: list[Timing], request_rate: float) -> LoadFigures:
    """The figures of one rate, from its requests in the order of their arrivals."""
    answered = [timing for timing in timings if timing.error is None]
    times = [timing.event_times_s for timing in answered]
    seconds = max(timing.end_s for timing in timings) - timings[0].arrival_s
    normalized = [(timing.end_s - timing.arrival_s) / timing.num_tokens for timing in answered]
    return LoadFigures(
        request_rate=request_rate,
        requests=len(timings),
        failed=len(timings) - len(answered),
        errors=sorted({timing.error for timing in timings if timing.error is not None}),
        seconds=round(seconds, 3),
        output_tok_s=round(sum(timing.num_tokens for timing in answered) / seconds, 1),
        normalized_latency_s=round(statistics.fmean(normalized), 6) if normalized else None,
        first_token_ms=percentiles_ms([timing.event_times_s[0] - timing.arrival_s for timing in answered]),
        between_tokens_ms=percentiles_ms([after - before for each in times for before, after in pairwise(each)]),
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _refusal(body: bytes) -> str:
    """What a server says in refusing, in OpenAI's format or not."""
    try:
        return _message(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return body[:200].decode(errors="replace")


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def plot(figures: list[LoadFigures], path: str) -> None:
    """Draw normalized latency, first token and time between tokens against the request rate, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    normalized, *others = figure.subplots(1, 3)
    answered = [each for each in figures if each.normalized_latency_s is not None]
    rates = [each.request_rate for each in answered]
    normalized.plot(rates, [each.normalized_latency_s for each in answered], marker="o")
    normalized.set(ylabel="seconds a token", title="Normalized latency")
    for axes, name, title in zip(
        others, ("first_token_ms", "between_tokens_ms"), ("First token", "Between tokens"), strict=True
    ):
        for number, percentile in enumerate(PERCENTILES):
            values = [getattr(each, name)[number : number + 1] or [float("nan")] for each in answered]
            axes.plot(rates, values, marker="o", label=f"p{percentile}")
        axes.set(ylabel="milliseconds", title=title)
        axes.legend()
    for axes in (normalized, *others):
        axes.set(xlabel="requests/s")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
