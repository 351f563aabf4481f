"""Counters and histograms kept as answers go out, and the engine's last report (`load`).

Names, labels and buckets are vLLM's where the meaning is the same, so that its dashboards work: those that its later
versions renamed go by both names. `octavo:` is this engine's own.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from octavo.metrics.histogram import TokenHistogram
from octavo.metrics.load import LoadCollector, OpenCount, ReportsLoad
from octavo.output_assembler import Delta
from octavo.outputs import RequestMetrics, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.scheduling.messages import SequenceUpdate

FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
SAMPLES_BUCKETS = (1, 2, 5, 10, 20)


class Metrics:
    """The registry of a server, or of an `LLM`.

    Args:
        engine: whose load the gauges show.
        open_requests: the count of requests.
        model_name: a label of every series with a name of vLLM's. Its label `engine`, which tells the replicas of an
            engine apart, is always 0.
        max_model_len: the longest sequence, in tokens; it bounds the buckets of lengths.
    """

    def __init__(self, engine: ReportsLoad, open_requests: OpenCount, model_name: str, max_model_len: int) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self.registry.register(LoadCollector(engine, open_requests, self._labels))
        lengths = list(_length_buckets(max_model_len))
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that got a token.")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self._finished = Counter(
            "vllm:request_success",
            "Sequences by how they ended.",
            [*self._labels, "finished_reason"],
            registry=self.registry,
        )
        for reason in ("stop", "length", "abort"):
            self._finished.labels(*self._labels.values(), reason)
        self._first_token_s = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_BUCKETS_S
        )
        self._token_s = TokenHistogram(
            ["vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"],
            "Between a request's tokens; its parallel sequences get theirs together.",
            self._labels,
            TOKEN_BUCKETS_S,
        )
        self.registry.register(self._token_s)
        self._phases_s = {
            name: self._histogram(name, help, REQUEST_BUCKETS_S)
            for name, help in (
                ("e2e_request_latency_seconds", "From a request's arrival to its last token."),
                ("request_queue_time_seconds", "From a request's arrival to its first step."),
                ("request_prefill_time_seconds", "From a request's first step to its first token."),
                ("request_decode_time_seconds", "From a request's first token to its last."),
                ("request_inference_time_seconds", "From a request's first step to its last token."),
            )
        }
        self._lengths = {
            name: self._histogram(name, help, lengths)
            for name, help in (
                ("request_prompt_tokens", "Tokens of a finished request's prompt."),
                ("request_generation_tokens", "Tokens of each sequence of a finished request."),
                ("request_max_num_generation_tokens", "Tokens of a finished request's longest sequence."),
                ("request_params_max_tokens", "The max_tokens of requests that bring it."),
            )
        }
        self._samples = self._histogram("request_params_n", "The n of requests.", SAMPLES_BUCKETS)

    def note_start(self, params: SamplingParams) -> None:
        """Count a request that goes to the engine."""
        self._samples.observe(params.n)
        if params.max_tokens is not None:
            self._lengths["request_params_max_tokens"].observe(params.max_tokens)

    def note_pooled(self, num_prompt_tokens: int) -> None:
        """Count a prompt that has been pooled."""
        self._prompt_tokens.inc(num_prompt_tokens)

    def note_first_token(self, num_prompt_tokens: int, arrival_s: float) -> None:
        """Count a request that has begun to answer."""
        self._prompt_tokens.inc(num_prompt_tokens)
        self._first_token_s.observe(time.monotonic() - arrival_s)

    def note_deltas(self, deltas: Iterable[Delta | SequenceUpdate], gap_s: float | None) -> None:
        """Count new tokens, and the time since the same request's last ones where there were any."""
        self._generation_tokens.inc(sum(len(delta.token_ids) for delta in deltas))
        if gap_s is not None:
            self._token_s.observe(gap_s)

    def note_end(self, output: RequestOutput, arrival_s: float) -> None:
        """Count a request that is over, or that was left: of the latter how it ended only."""
        for sequence in output.outputs:
            self._finished.labels(*self._labels.values(), sequence.finish_reason or "abort").inc()
        if output.metrics.finished_s is None:
            return
        for name, seconds in _phases_s(output.metrics, arrival_s):
            self._phases_s[name].observe(seconds)
        lengths = [len(sequence.token_ids) for sequence in output.outputs]
        self._lengths["request_prompt_tokens"].observe(len(output.prompt_token_ids))
        self._lengths["request_max_num_generation_tokens"].observe(max(lengths))
        for length in lengths:
            self._lengths["request_generation_tokens"].observe(length)

    def _counter(self, name: str, help: str) -> Counter:
        counter = Counter(f"vllm:{name}", help, list(self._labels), registry=self.registry)
        return counter.labels(*self._labels.values())

    def _histogram(self, name: str, help: str, buckets: Sequence[float]) -> Histogram:
        histogram = Histogram(f"vllm:{name}", help, list(self._labels), registry=self.registry, buckets=buckets)
        return histogram.labels(*self._labels.values())


def _phases_s(times: RequestMetrics, arrival_s: float) -> Iterator[tuple[str, float]]:
    """The parts of a finished request's time, by the names of their histograms."""
    first_step_s, first_token_s, end_s = times.first_scheduled_s, times.first_token_s, times.finished_s
    if end_s is None or first_token_s is None:
        return
    yield "e2e_request_latency_seconds", end_s - arrival_s
    yield "request_decode_time_seconds", end_s - first_token_s
    if first_step_s is not None:
        yield "request_queue_time_seconds", first_step_s - arrival_s
        yield "request_prefill_time_seconds", first_token_s - first_step_s
        yield "request_inference_time_seconds", end_s - first_step_s


def _length_buckets(longest: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, 50 and so on, up to a length."""
    power = 1
    while True:
        for length in (power, 2 * power, 5 * power):
            if length > longest:
                return
            yield length
        power *= 10
