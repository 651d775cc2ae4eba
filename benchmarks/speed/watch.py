"""Watches a process at work: what it has put out, and what that took.

Every so often the ends of its output topic are asked for, with the processor time and the memory
of all involved. Figures are taken from when a twentieth is done until all is, so that a start,
compilers and joining a group are in none of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from benchmarks.progress import Report, progress
from benchmarks.speed.material import client
from pipeline.errors import StackError
from stack.processes import Started

LOOK_SECONDS = 0.05
ANSWER_SECONDS_MAX = 10.0
# A start may compile; later nothing takes so long.
STALL_SECONDS_MAX = 120.0
WARM_SHARE = 0.05
MB = 1e6


class Ends:
    """How many records stand in some topics."""

    def __init__(self, servers: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer(client(servers) | {"group.id": "bench-ends"})
        self._places = [TopicPartition(topic, p) for p in range(partitions)]
        self._seen = 0

    def count(self) -> int:
        """Ask Kafka; of a topic that has no leader yet nothing has come."""
        try:
            ends = [
                self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS_MAX)
                for place in self._places
            ]
        except KafkaException:
            return self._seen
        self._seen = sum(end[1] for end in ends if end is not None)
        return self._seen

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at a moment."""

    at: float
    count: int
    cpu: dict[str, float]
    rss: dict[str, int]


class Usage:
    """Processor time and memory of processes by name."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}

    def sample(self, count: int) -> Sample:
        """Look once; who has gone counts nothing."""
        cpu, rss = {}, {}
        for name, process in self._processes.items():
            try:
                times = process.cpu_times()
                cpu[name], rss[name] = times.user + times.system, process.memory_info().rss
            except psutil.Error:
                cpu[name], rss[name] = 0.0, 0
        return Sample(time.perf_counter(), count, cpu, rss)


def watch(
    name: str,
    started: Started,
    count: Callable[[], int],
    wanted: int,
    pids: Mapping[str, int],
    *,
    warm_share: float = WARM_SHARE,
    unit: str = "events",
) -> dict[str, float]:
    """Watch until so many are counted; gives rates, processor time and peak memory."""
    usage = Usage({"worker": started.process.pid} | dict(pids))
    samples: list[Sample] = []
    with progress(name, unit, wanted) as report:
        _look(name, started, count, wanted, usage, samples, report)
    return figures(samples, wanted, warm_share)


def _look(
    name: str, started: Started, count: Callable[[], int], wanted: int, usage: Usage,
    samples: list[Sample], report: Report,
) -> None:  # fmt: skip
    moved = time.monotonic()
    while not samples or samples[-1].count < wanted:
        before = samples[-1].count if samples else 0
        samples.append(usage.sample(count()))
        if samples[-1].count > before:
            moved = time.monotonic()
        report(samples[-1].count)
        if failure := started.failure():
            raise StackError(f"{name} {failure}")
        if time.monotonic() - moved > STALL_SECONDS_MAX:
            tail = started.log.read_text(encoding="utf-8", errors="replace")[-2_000:]
            raise StackError(f"{name} got nowhere at {before:,} of {wanted:,}:\n{tail}")
        time.sleep(LOOK_SECONDS)


def figures(samples: Sequence[Sample], wanted: int, warm_share: float) -> dict[str, float]:
    """Give the figures of what was sampled, the first share left out.

    >>> seen = [Sample(t, 100 * t, {"worker": 0.5 * t, "redis": 0.1 * t}, {"worker": 8_000_000})
    ...     for t in range(11)]
    >>> found = figures(seen, 1000, 0.05)
    >>> found["events_per_second"], found["worker_cpu_us"], found["events_per_cpu_second"]
    (100.0, 5000.0, 200.0)
    """
    first = next(item for item in samples if item.count >= max(1, warm_share * wanted))
    last = samples[-1]
    if first is last:
        first = samples[0]
    events, seconds = last.count - first.count, last.at - first.at
    used = {name: last.cpu[name] - first.cpu[name] for name in last.cpu}
    found = {"events_per_second": events / seconds, "seconds": seconds, "events": float(events)}
    found |= {f"{name}_cpu_us": spent / events * 1e6 for name, spent in used.items()}
    found["events_per_cpu_second"] = events / max(used["worker"], 0.01)
    for name in last.rss:
        found[f"{name}_peak_mb"] = max(item.rss[name] for item in samples) / MB
    return found
