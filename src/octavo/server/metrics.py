"""/metrics: gauges read from the engine's last report, counters and histograms kept as answers go out.

Names are vLLM's where the meaning is the same, so that its dashboards work; `octavo:` is this engine's own.
"""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from octavo.engine.client import EngineClient
from octavo.engine.wire import EngineLoad
from octavo.memory import Ledger
from octavo.output_assembler import Delta
from octavo.outputs import RequestOutput
from octavo.server.request_limits import OpenRequests

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKEN_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5)
REQUEST_BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280)

router = APIRouter()


@router.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Everything in the registry."""
    registry = request.app.state.serving.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """One server's registry.

    Args:
        client: whose load the gauges show.
        open_requests: the count of requests.
    """

    def __init__(self, client: EngineClient, open_requests: OpenRequests) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_LoadCollector(client, open_requests))
        self._prompt_tokens = Counter(
            "vllm:prompt_tokens", "Prompt tokens of requests that got a token.", registry=self.registry
        )
        self._generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.", registry=self.registry)
        self._finished = Counter(
            "vllm:request_success", "Sequences by how they ended.", ["finished_reason"], registry=self.registry
        )
        for reason in ("stop", "length", "abort"):
            self._finished.labels(reason)
        self._first_token_s = Histogram(
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=self.registry,
        )
        self._token_s = Histogram(
            "vllm:inter_token_latency_seconds",
            "Between a request's tokens; its parallel sequences get theirs together.",
            buckets=TOKEN_BUCKETS_S,
            registry=self.registry,
        )
        self._request_s = Histogram(
            "vllm:e2e_request_latency_seconds",
            "From a request's arrival to its last token.",
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )

    def note_first_token(self, num_prompt_tokens: int, arrival_s: float) -> None:
        """Count a request that has begun to answer."""
        self._prompt_tokens.inc(num_prompt_tokens)
        self._first_token_s.observe(time.monotonic() - arrival_s)

    def note_deltas(self, deltas: Iterable[Delta], gap_s: float | None) -> None:
        """Count new tokens, and the time since the same request's last ones where there were any."""
        self._generation_tokens.inc(sum(len(delta.token_ids) for delta in deltas))
        if gap_s is not None:
            self._token_s.observe(gap_s)

    def note_end(self, output: RequestOutput, arrival_s: float) -> None:
        """Count a request that is over, or that was left."""
        for sequence in output.outputs:
            self._finished.labels(sequence.finish_reason or "abort").inc()
        if output.metrics.finished_s is not None:
            self._request_s.observe(output.metrics.finished_s - arrival_s)


class Gauge(NamedTuple):
    """A gauge or a counter: a name, what it tells, and its values by state; a state of "" has no label."""

    name: str
    help: str
    values: dict[str, float]
    label: str = "state"


class _LoadCollector(Collector):
    """Reads the engine's last report when the metrics are asked for: the engine's steps cost nothing more."""

    def __init__(self, client: EngineClient, open_requests: OpenRequests) -> None:
        self._client = client
        self._open_requests = open_requests

    def collect(self) -> Iterator[Metric]:
        open_requests = Gauge("octavo:requests_open", "Requests in the server.", {"": self._open_requests.count})
        yield _family(open_requests)
        load = self._client.load
        if load is None:
            return
        for gauge in _gauges(load):
            yield _family(gauge)
        for counter in _counters(load.ledger):
            yield _family(counter, CounterMetricFamily)


def _gauges(load: EngineLoad) -> list[Gauge]:
    ledger = load.ledger
    blocks = {
        "used": ledger.num_used_blocks,
        "free": ledger.num_free_blocks,
        "cached": ledger.num_cached_blocks,
        "shared": ledger.num_shared_blocks,
        "pinned": ledger.num_pinned_blocks,
        "swapped": ledger.num_swapped_blocks,
    }
    slots = {
        "filled": ledger.num_filled_slots,
        "reserved": ledger.num_reserved_slots,
        "fragmented": ledger.num_fragmented_slots,
    }
    usage = ledger.num_used_blocks / ledger.num_blocks if ledger.num_blocks else 0.0
    return [
        Gauge("vllm:num_requests_running", "Requests that hold memory.", {"": load.num_running}),
        Gauge("vllm:num_requests_waiting", "Requests that wait for memory.", {"": load.num_waiting}),
        Gauge("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", {"": usage}),
        Gauge(
            "octavo:kv_blocks",
            "KV blocks: used, free or cached; shared and pinned ones are used, swapped ones beside the pool.",
            dict(blocks),
        ),
        Gauge(
            "octavo:kv_blocks_unshared",
            "KV blocks that the same sequences would hold without sharing.",
            {"": ledger.num_unshared_blocks},
        ),
        Gauge("octavo:kv_slots", "Token slots of used blocks by what they hold.", dict(slots)),
        Gauge(
            "octavo:kv_padding_bytes",
            "Bytes of used blocks in the empty places of layer groups with fewer layers than others.",
            {"": ledger.padding_bytes},
        ),
        Gauge("octavo:kv_waste_ratio", "Share of allocated slots that hold no token.", {"": ledger.waste}),
    ]


def _counters(ledger: Ledger) -> list[Gauge]:
    totals = ledger.totals
    modes = {"recompute": totals.num_recomputes, "swap": totals.num_swaps}
    return [
        Gauge("vllm:num_preemptions", "Times that a request gave up its memory.", {"": totals.num_preemptions}),
        Gauge("octavo:preemptions", "Times that a request gave up its memory, by how.", dict(modes), "mode"),
        Gauge(
            "octavo:recomputed_tokens", "Tokens computed again after a preemption.", {"": totals.num_recomputed_tokens}
        ),
        Gauge("octavo:swapped_bytes", "Bytes moved to the swap space and back.", {"": ledger.moved_bytes}),
        Gauge("octavo:copied_bytes", "Bytes copied by copy-on-write.", {"": ledger.copied_bytes}),
        Gauge(
            "vllm:prefix_cache_queries",
            "Prompt tokens that the prefix cache was asked for.",
            {"": totals.num_queried_tokens},
        ),
        Gauge("vllm:prefix_cache_hits", "Prompt tokens that the prefix cache had.", {"": totals.num_hit_tokens}),
    ]


Family = type[GaugeMetricFamily] | type[CounterMetricFamily]


def _family(gauge: Gauge, kind: Family = GaugeMetricFamily) -> GaugeMetricFamily | CounterMetricFamily:
    labels = [] if "" in gauge.values else [gauge.label]
    family = kind(gauge.name, gauge.help, labels=labels)
    for state, value in gauge.values.items():
        family.add_metric([state] if state else [], value)
    return family
