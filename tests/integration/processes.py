"""Workers, trainers and monitors as the processes that they are, and what stands in the logs.

A process dies with the test that started it, however that ends.
"""

import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from kafka import KafkaProducer
from kafka.consumer.fetcher import ConsumerRecord
from redis import Redis

from consumers.log_reader import LogReader
from pipeline.keys import LABEL_SOURCES
from pipeline.partitioner import partition_of
from pipeline.settings import Settings
from pipeline.signing import Headers, LabelSigner
from pipeline.topics import FEEDBACK
from stack.processes import Started
from stack.servers import Endpoints
from stack.services import start_service, stop_services
from tests.waiting import wait_until

READY = re.compile(r"ready: metrics (http://\S+)")
# A start compiles or loads kernels, and other processes may be starting as well.
START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: its exit code, and how long that took."""

    exit_code: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Running:
    """One of our processes."""

    name: str
    started: Started

    @property
    def pid(self) -> int:
        return self.started.process.pid

    @property
    def output(self) -> str:
        """All that it has said."""
        return self.started.log.read_text(encoding="utf-8", errors="replace")

    @property
    def has_ended(self) -> bool:
        return self.started.process.poll() is not None

    @property
    def address(self) -> str | None:
        """Where its metrics are; `None` before it is ready."""
        found = READY.search(self.output)
        return found[1] if found else None

    def wait_until_ready(self) -> "Running":
        def is_ready() -> bool:
            assert not self.has_ended, f"{self.name} ended while starting: {self.output}"
            return self.address is not None

        wait_until(is_ready, f"{self.name} is ready", seconds_max=START_SECONDS_MAX)
        return self

    def samples(self, name: str) -> dict[str, float]:
        """Give a metric's samples by the text of their labels."""
        assert self.address is not None, f"{self.name} is not ready"
        with urllib.request.urlopen(self.address, timeout=10) as answer:
            page = answer.read().decode()
        found = SAMPLE.findall(page)
        return {labels: float(value) for metric, labels, value in found if metric == name}

    def total(self, name: str) -> float:
        """Give the sum of a metric's samples."""
        return sum(self.samples(name).values())

    def end(self, number: signal.Signals = signal.SIGTERM) -> Ending:
        """Send a signal and wait for the end."""
        asked_at = time.monotonic()
        self.started.process.send_signal(number)
        exit_code = self.started.process.wait(STOP_SECONDS_MAX)
        return Ending(exit_code, time.monotonic() - asked_at)


class Processes:
    """Starts processes on one set of settings; those still alive end with the block."""

    def __init__(self, settings: Settings, **changes: object) -> None:
        self._settings = replace(settings, **changes)  # type: ignore[arg-type]
        self._all: list[Running] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stop_services([item.started for item in self._all])

    def start(self, name: str, **changes: object) -> Running:
        """Start one, without waiting until it is ready."""
        settings = replace(self._settings, **changes)  # type: ignore[arg-type]
        log = Path(settings.state_dir) / f"{name}-{len(self._all)}.log"
        endpoints = Endpoints(settings.kafka_servers, settings.redis_url, None)
        self._all.append(Running(name, start_service(name, settings, endpoints, log=log)))
        return self._all[-1]

    def ready(self, *names: str, **changes: object) -> list[Running]:
        """Start some at the same time, and wait until all of them are ready."""
        return [item.wait_until_ready() for item in [self.start(name, **changes) for name in names]]


class Log:
    """A topic as it grows; `records` holds what was read, each partition in order."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.records: list[ConsumerRecord] = []
        self._reader = LogReader(settings.kafka_servers, topic)

    def read(self) -> list[ConsumerRecord]:
        """Read up to the end of now, and give everything."""
        for chunk in self._reader.chunks():
            self.records += chunk
        return self.records

    @property
    def ends(self) -> dict[int, int]:
        """The end offset of each partition."""
        return self._reader.ends

    def close(self) -> None:
        self._reader.close()


def read(settings: Settings, topic: str) -> list[ConsumerRecord]:
    """Give all records of a topic, each partition in order."""
    with closing(Log(settings, topic)) as log:
        return log.read()


Sent = tuple[int, bytes | None, bytes | None]
"""Partition, key and value."""


def send(
    settings: Settings,
    topic: str,
    records: Iterable[Sent],
    *,
    headers: Callable[[Sent], Headers] | None = None,
) -> list[Place]:
    """Send records to the partitions they name, in order; gives where each came to stand.

    Labels are signed by their sources, unless `headers` gives others.
    """
    if headers is None:
        headers = signed_by_source(settings) if topic == FEEDBACK else no_headers
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_servers, acks="all", linger_ms=5, enable_idempotence=True
    )
    with closing(producer):
        futures = [
            producer.send(topic, value, key, partition=partition, headers=list(headers(record)))
            for record in records
            for partition, key, value in [record]
        ]
        producer.flush(timeout=30)
        return [(found.partition, found.offset) for found in (item.get(30) for item in futures)]


def no_headers(record: Sent) -> Headers:
    """Send nothing beside key and value."""
    return ()


def signed_by_source(settings: Settings) -> Callable[[Sent], Headers]:
    """Sign each label by the source that it names; where none can be read, by the analyst's."""
    signer = LabelSigner.of(settings)

    def sign(record: Sent) -> Headers:
        _, key, value = record
        found = re.search(rb'"source": ?"(\w+)"', value or b"")
        source = found[1].decode() if found else ""
        known = [name for name in LABEL_SOURCES if name == source]
        return signer.headers(known[0] if known else "analyst", key, value)

    return sign


def keyed(settings: Settings, key: str, value: bytes) -> Sent:
    """Give a record in the partition of its key."""
    return partition_of(key.encode(), settings.partitions), key.encode(), value


def key_of(partition: int, settings: Settings, prefix: str = "card") -> str:
    """Find a key of a partition."""
    names = (f"{prefix}-{number}" for number in range(1_000))
    return next(
        name for name in names if partition_of(name.encode(), settings.partitions) == partition
    )


def values_by_id(records: Sequence[ConsumerRecord]) -> dict[bytes, set[bytes]]:
    """Give the different values of each key: more than one is a contradiction."""
    found: dict[bytes, set[bytes]] = {}
    for record in records:
        found.setdefault(record.key, set()).add(record.value)
    return found


def hashes(redis: Redis, name: str, partitions: int) -> list[dict[str, str]]:
    """Give a hash of each partition as text."""
    found = [redis.hgetall(f"{name}:{partition}") for partition in range(partitions)]
    return [{key.decode(): value.decode() for key, value in part.items()} for part in found]
