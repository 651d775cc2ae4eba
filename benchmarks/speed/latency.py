"""The rows of latency: from an event's moment to when a consumer has its decision.

The moment is the one in the generator's schedule, not when the record left (coordinated omission
is so corrected). Nothing is pinned here: worker, trainer, servers, generator and consumer share
the machine as they would. The first seconds are left out: a broker that has just started compiles
itself, on a core of its own, for the first twenty.
"""

import gc
import threading
import time
from functools import partial
from typing import Self

import numpy as np
from confluent_kafka import Consumer, TopicPartition

from benchmarks.speed.bench import Bench, Found, Row
from benchmarks.speed.cores import held_to
from benchmarks.speed.material import Material, client
from benchmarks.speed.place import OURS, Place, command_of
from benchmarks.speed.rivals import answer
from benchmarks.speed.watch import Usage
from pipeline.topics import DECISIONS

WARM_SECONDS = 25.0
SHORT_WARM_SECONDS = 5.0
# How long each rate is measured: a slow one longer, or its last percentile would be of few.
SECONDS = {100: 40.0, 1_000: 20.0, 5_000: 15.0, 10_000: 15.0}
SHORT_SECONDS = 3.0
DRAIN_SECONDS_MAX = 30.0
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99_9": 0.999, "max": 1.0}
RECORDS_AT_ONCE = 10_000
THOUSAND = 1_000


class Reader:
    """Reads `decisions` in a thread, and notes when each batch was there."""

    def __init__(self, place: Place) -> None:
        self.seen: list[tuple[float, list[bytes]]] = []
        self.count = 0
        self._stop = threading.Event()
        self._consumer = Consumer(
            client(place.endpoints.kafka_servers)
            | {"group.id": "bench-reader", "auto.offset.reset": "earliest"}
        )
        partitions = range(place.settings.partitions)
        self._consumer.assign([TopicPartition(DECISIONS, p, 0) for p in partitions])
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.05)
            if message is None or message.error():
                continue
            keys = [message.key()]
            keys += [item.key() for item in self._consumer.consume(RECORDS_AT_ONCE, 0)]
            self.seen.append((time.time(), keys))
            self.count += len(keys)

    def wait_for(self, wanted: int) -> None:
        """Wait for so many decisions, within reason."""
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while self.count < wanted and time.monotonic() < deadline:
            time.sleep(0.05)


def latency(bench: Bench, rate: int) -> Found:
    """Measure at a rate."""
    seconds = SHORT_SECONDS if bench.is_short else SECONDS[rate]
    warm = SHORT_WARM_SECONDS if bench.is_short else WARM_SECONDS
    with held_to(bench.cores.all, bench.cores.others), bench.place() as place:
        everywhere = bench.cores.all
        with (
            place.ours("trainer", everywhere, wait=True),
            place.ours("worker", everywhere, wait=True) as worker,
            Reader(place) as reader,
        ):
            usage = Usage(place.pids | {"worker": worker.process.pid})
            before = usage.sample(0)
            said = _generate(place, rate, warm + seconds)
            events = round(rate * (warm + seconds))
            reader.wait_for(events)
            after = usage.sample(events)
    found = quantiles(reader.seen, rate, said["began"], events, warm)
    for name, spent in after.cpu.items():
        found[f"{name}_cpu_us"] = (spent - before.cpu[name]) / events * 1e6
    return found | {"generator_late_ms": said["late_ms"]}


def _generate(place: Place, rate: int, seconds: float) -> Found:
    arguments = [str(place.folder), place.endpoints.kafka_servers, str(rate), str(seconds)]
    command = command_of(place.cores.all, "benchmarks.speed.generator", arguments)
    gc.collect()
    gc.disable()
    try:
        return answer(command)
    finally:
        gc.enable()


def quantiles(
    seen: list[tuple[float, list[bytes]]], rate: int, began: float, events: int, warm: float
) -> Found:
    """Give quantiles of the waits, in milliseconds, of all events after the first seconds."""
    number = {key: row for row, key in enumerate(Material(OURS, events).batch.transaction_id)}
    at = np.full(events, np.nan)
    for moment, keys in seen:
        for key in keys:
            row = number[key.decode()]
            # One that was published again counts from its first.
            at[row] = np.fmin(at[row], moment)
    waits = (at - began - np.arange(events) / rate)[round(rate * warm) :]
    missing = int(np.isnan(waits).sum())
    assert not missing, f"{missing} of {events} events have no decision"
    given = np.quantile(waits, list(QUANTILES.values()), method="higher") * 1_000
    return {f"{name}_ms": float(value) for name, value in zip(QUANTILES, given, strict=True)}


def rate_words(rate: int) -> str:
    """Name a rate as the keys of the answer do.

    >>> rate_words(100), rate_words(5_000)
    ('100', '5k')
    """
    return str(rate) if rate < THOUSAND else f"{rate // THOUSAND}k"


ROWS = tuple(
    Row(
        f"latency-{rate_words(rate)}",
        f"produce to decision at {rate:,} events/s",
        partial(latency, rate=rate),
        rounds_max=2,
    )
    for rate in SECONDS
)
