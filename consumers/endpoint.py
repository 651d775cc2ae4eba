"""The HTTP endpoint of a process: /metrics, and /live and /ready of `pipeline/health.py`.

Each process has a port and a target file of its own, so that a Prometheus beside it finds it
without being told.
"""

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from pipeline.health import Health

JSON = "application/json"
TARGETS_FOLDER = "metrics"
# Who listens on every address is reached on the loopback one.
ANY_ADDRESSES = ("", "0.0.0.0", "::")
LOOPBACK = "127.0.0.1"


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
