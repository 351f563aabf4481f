"""The engine's last report as metrics: gauges and counters, read when they are asked for."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo.engine.wire import EngineLoad


class ReportsLoad(Protocol):
    """An engine, or what speaks with one."""

    @property
    def load(self) -> EngineLoad | None:
        """What it last said that it is doing."""
        ...


class OpenCount(Protocol):
    """Who knows how many requests are open."""

    @property
    def count(self) -> int: ...


class Gauge(NamedTuple):
    """A gauge or a counter: a name, what it tells, and its values by state; a state of "" has no label."""

    name: str
    help: str
    values: dict[str, float]
    label: str = "state"


class LoadCollector(Collector):
    """Reads the engine's last report when the metrics are asked for: the engine's steps cost nothing more.

    Args:
        engine: whose load is told.
        open_requests: the count of requests.
        labels: of every series with a name of vLLM's.
    """

    def __init__(self, engine: ReportsLoad, open_requests: OpenCount, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._open_requests = open_requests
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        open_requests = Gauge("octavo:requests_open", "Requests in the server.", {"": self._open_requests.count})
        yield self._family(open_requests)
        load = self._engine.load
        if load is None:
            return
        for gauge in _gauges(load):
            yield self._family(gauge)
        for counter in _counters(load):
            yield self._family(counter, CounterMetricFamily)

    def _family(
        self, gauge: Gauge, kind: type[GaugeMetricFamily] | type[CounterMetricFamily] = GaugeMetricFamily
    ) -> Metric:
        common = self._labels if gauge.name.startswith("vllm:") else {}
        own = [] if "" in gauge.values else [gauge.label]
        family = kind(gauge.name, gauge.help, labels=[*common, *own])
        for state, value in gauge.values.items():
            family.add_metric([*common.values(), *([state] if own else [])], value)
        return family


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
        Gauge("vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc under its older name.", {"": usage}),
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


def _counters(load: EngineLoad) -> list[Gauge]:
    ledger = load.ledger
    totals = ledger.totals
    modes = {"recompute": totals.num_recomputes, "swap": totals.num_swaps}
    queried, found = {"": float(totals.num_queried_tokens)}, {"": float(totals.num_hit_tokens)}
    drafted, accepted = {"": float(load.drafts.num_drafted)}, {"": float(load.drafts.num_accepted)}
    return [
        Gauge("vllm:num_preemptions", "Times that a request gave up its memory.", {"": totals.num_preemptions}),
        Gauge("octavo:preemptions", "Times that a request gave up its memory, by how.", dict(modes), "mode"),
        Gauge(
            "octavo:recomputed_tokens", "Tokens computed again after a preemption.", {"": totals.num_recomputed_tokens}
        ),
        Gauge("octavo:swapped_bytes", "Bytes moved to the swap space and back.", {"": ledger.moved_bytes}),
        Gauge("octavo:copied_bytes", "Bytes copied by copy-on-write.", {"": ledger.copied_bytes}),
        Gauge("vllm:prefix_cache_queries", "Prompt tokens that the prefix cache was asked for.", queried),
        Gauge("vllm:prefix_cache_hits", "Prompt tokens that the prefix cache had.", found),
        Gauge("vllm:gpu_prefix_cache_queries", "vllm:prefix_cache_queries under its older name.", queried),
        Gauge("vllm:gpu_prefix_cache_hits", "vllm:prefix_cache_hits under its older name.", found),
        Gauge("vllm:spec_decode_num_draft_tokens", "Guesses at tokens that were computed.", drafted),
        Gauge("vllm:spec_decode_num_accepted_tokens", "Guesses at tokens that were right.", accepted),
    ]
