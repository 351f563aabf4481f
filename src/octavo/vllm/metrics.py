"""Metrics as vLLM tells them: what `LLM.get_metrics` gives."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family


@dataclass(frozen=True, slots=True)
class Metric:
    """A series: a name, and what tells it from others of that name."""

    name: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """A number that only grows."""

    value: int


@dataclass(frozen=True, slots=True)
class Vector(Metric):
    """Counters in order. None is kept here."""

    values: list[int]


@dataclass(frozen=True, slots=True)
class Gauge(Metric):
    """A number of this moment."""

    value: float


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """How many values were at most so large: `buckets` by their upper bounds, as texts."""

    count: int
    sum: float
    buckets: dict[str, int]


def read_metrics(registry: CollectorRegistry) -> list[Metric]:
    """All series at this moment."""
    return [metric for family in registry.collect() for metric in _series(family)]


def _series(family: Family) -> Iterator[Metric]:
    histograms: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    for sample in family.samples:
        labels = dict(sample.labels)
        if family.type == "gauge":
            yield Gauge(family.name, labels, sample.value)
        elif family.type == "counter" and sample.name.endswith("_total"):
            yield Counter(family.name, labels, int(sample.value))
        elif family.type == "histogram" and not sample.name.endswith("_created"):
            part = labels.pop("le", sample.name.rsplit("_", 1)[1])
            histograms.setdefault(tuple(labels.items()), {})[part] = sample.value
    for labels_of, parts in histograms.items():
        total, number = parts.pop("sum"), int(parts.pop("count"))
        buckets = {bound: int(below) for bound, below in parts.items()}
        yield Histogram(family.name, dict(labels_of), number, total, buckets)
