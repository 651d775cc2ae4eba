"""Plain numbers become Prometheus metrics when they are asked for.

Nothing is counted here. The worker, the trainer and the monitor keep plain numbers, and a scrape
reads them through the table in `metric_table.py`. Each process has a registry of its own.

>>> counts = WorkerCounts(schema="card")
>>> registry = worker_registry(counts)
>>> counts.decisions["review", "act"] += 1
>>> registry.get_sample_value("fraud_decisions_total", {"action": "review", "mode": "act"})
1.0
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pipeline.counts import Buckets, TrainerCounts, WorkerCounts
from pipeline.metric_samples import Sample, trainer_samples, worker_samples
from pipeline.metric_table import METRICS, MetricRow, Process

__all__ = [
    "METRICS",
    "MetricRow",
    "PlainCollector",
    "Process",
    "registry_of",
    "trainer_registry",
    "worker_registry",
]

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

FAMILIES: dict[str, type[Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class PlainCollector(Collector):
    """Turns plain numbers into the metric families of one process.

    `read` gives the samples of the moment. It runs in a thread of the HTTP server, so it must not
    walk over what another thread changes.
    """

    def __init__(self, process: Process, read: Callable[[], Iterable[Sample]]) -> None:
        self._metrics = [metric for metric in METRICS if metric.process == process]
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Give the families without samples, so that the registry refuses a name twice."""
        return [_family(metric) for metric in self._metrics]

    def collect(self) -> Iterable[Metric]:
        """Give the families with the samples of now."""
        families = {metric.name: _family(metric) for metric in self._metrics}
        for name, labels, value in self._read():
            _add(families[name], labels, value)
        return families.values()


def _family(metric: MetricRow) -> Family:
    return FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)


def _add(family: Family, labels: tuple[str, ...], value: float | Buckets) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, Buckets), family.name
        family.add_metric(labels, value.cumulative(), value.sum)
    else:
        assert not isinstance(value, Buckets), family.name
        family.add_metric(labels, value)


def registry_of(process: Process, read: Callable[[], Iterable[Sample]]) -> CollectorRegistry:
    """Give the registry of one process."""
    registry = CollectorRegistry()
    registry.register(PlainCollector(process, read))
    return registry


def worker_registry(counts: WorkerCounts) -> CollectorRegistry:
    """Give the registry of a worker."""
    return registry_of("worker", lambda: worker_samples(counts))


def trainer_registry(counts: TrainerCounts) -> CollectorRegistry:
    """Give the registry of a trainer."""
    return registry_of("trainer", lambda: trainer_samples(counts))
