"""Our own processes beside the embedded servers: for the demo, the tests and the benchmarks.

Each runs the console script's `main` with the settings handed on as flags, writes its log beside
the servers' data, and ends with its parent, whatever ends that.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StackError
from pipeline.settings import SETTINGS, Settings
from stack.processes import Started, identify, start, stop
from stack.servers import Endpoints

# A first start compiles the kernels; later ones load them.
READY_SECONDS_MAX = 120.0
POLL_SECONDS = 0.05
PROGRAM = "from pipeline.cli import main; main()"


def start_service(
    name: str, settings: Settings, endpoints: Endpoints, *, log: Path, program: str = PROGRAM
) -> Started:
    """Start `worker`, `trainer` or `monitor`; it is ready when its log says so.

    `program` runs the console script's `main`, whatever it does before.
    """
    command = [sys.executable, "-c", program, name, *_flags(settings, endpoints)]
    return start(command, folder=log.parent, log=log, attached=True)


def wait_until_ready(name: str, service: Started) -> None:
    """Wait for a service's word that it is ready."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while f"{name} ready" not in service.log.read_text(encoding="utf-8", errors="replace"):
        failure = service.failure()
        if failure or time.monotonic() > deadline:
            raise StackError(f"{name} {failure or 'did not become ready'}: see {service.log}")
        time.sleep(POLL_SECONDS)


def stop_services(services: Sequence[Started]) -> None:
    """End services as SIGTERM does, and wait for them."""
    stop(found for item in services if (found := identify(item.process.pid)))
    for item in services:
        item.release()


@contextmanager
def services(
    names: Sequence[str], settings: Settings, endpoints: Endpoints, say: Callable[[str], None]
) -> Iterator[list[Started]]:
    """Run services for the length of the block; it begins when all are ready."""
    started: list[Started] = []
    try:
        for number, name in enumerate(names):
            say(f"{name}: starting")
            log = Path(settings.state_dir).absolute() / f"{name}-{number}.log"
            started.append(start_service(name, settings, endpoints, log=log))
        for name, service in zip(names, started, strict=True):
            wait_until_ready(name, service)
        yield started
    finally:
        stop_services(started)


def _flags(settings: Settings, endpoints: Endpoints) -> list[str]:
    given = {item.name: str(getattr(settings, item.name)) for item in SETTINGS}
    given |= {"kafka_servers": endpoints.kafka_servers, "redis_url": endpoints.redis_url}
    return [f"--{name.replace('_', '-')}={text}" for name, text in given.items() if text]
