"""/metrics, /live and /ready: plain numbers become Prometheus metrics when they are asked for.

Nothing is counted here. The worker, the trainer and the monitor keep plain numbers, and a scrape
reads them through the table in `metric_table.py`. Each process has a registry, a port and a target
file of its own, so that a Prometheus beside it finds it without being told.

>>> counts = WorkerCounts(schema="card")
>>> registry = worker_registry(counts)
>>> counts.decisions["review"] += 1
>>> registry.get_sample_value("fraud_decisions_total", {"action": "review"})
1
"""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from pipeline.counts import Buckets, TrainerCounts, WorkerCounts
from pipeline.health import Health
from pipeline.metric_samples import Sample, trainer_samples, worker_samples
from pipeline.metric_table import METRICS, MetricRow, Process

__all__ = [
    "METRICS",
    "MetricRow",
    "MetricsServer",
    "PlainCollector",
    "Process",
    "Target",
    "metrics_endpoint",
    "registry_of",
    "serve",
    "trainer_registry",
    "worker_registry",
    "write_target",
]

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

FAMILIES: dict[str, type[Family]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}

JSON = "application/json"
TARGETS_FOLDER = "metrics"
# Who listens on every address is reached on the loopback one.
ANY_ADDRESSES = ("", "0.0.0.0", "::")
LOOPBACK = "127.0.0.1"


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


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running HTTP server of /metrics."""

    _server: WSGIServer
    _thread: Thread

    def close(self) -> None:
        """Stop listening; returns when the thread has ended."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietHandler(WSGIRequestHandler):
    """A scrape every few seconds is no news."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by its base
        """Say nothing."""


class _Server6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


def _application(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    metrics: WSGIApplication = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = health.answer(environ.get("PATH_INFO", ""))
        if answer is None:
            return metrics(environ, start_response)
        status, body = answer
        start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", JSON)])
        return [body]

    return application


def serve(
    registry: CollectorRegistry, host: str, port: int, health: Health | None = None
) -> tuple[MetricsServer, int]:
    """Serve a registry and the health; gives the server and its port (for 0, the one found)."""
    server = make_server(
        host,
        port,
        _application(registry, health or Health()),
        server_class=_Server6 if ":" in host else ThreadingWSGIServer,
        handler_class=_QuietHandler,
    )
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return MetricsServer(server, thread), int(server.server_port)


@dataclass(frozen=True, slots=True)
class Target:
    """A file that tells Prometheus (`file_sd_configs`) where this process is."""

    path: Path

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def write_target(state_dir: str | Path, job: str, host: str, port: int) -> Target:
    """Write the target file of this process, whole or not at all."""
    folder = Path(state_dir) / TARGETS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = Target(folder / f"{job}-{os.getpid()}.json")
    address = f"{LOOPBACK if host in ANY_ADDRESSES else host}:{port}"
    unfinished = target.path.with_suffix(".unfinished")
    unfinished.write_text(
        json.dumps([{"targets": [address], "labels": {"job": job}}]), encoding="ascii"
    )
    unfinished.replace(target.path)
    return target


@contextmanager
def metrics_endpoint(
    registry: CollectorRegistry,
    *,
    job: str,
    state_dir: str | Path,
    host: str,
    port: int,
    health: Health | None = None,
) -> Iterator[int]:
    """Serve a registry and tell Prometheus of it while the block runs; gives the port."""
    server, actual = serve(registry, host, port, health)
    try:
        target = write_target(state_dir, job, host, actual)
        try:
            yield actual
        finally:
            target.close()
    finally:
        server.close()
