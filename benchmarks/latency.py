"""Measure produce-to-decision latency: `python benchmarks/latency.py --rate 1000 --seconds 60`.

An open loop: each transaction has its moment in a schedule and its latency counts from the moment
it was handed to the producer until its decision was read from Kafka by a consumer in this process.
Servers, worker and trainer run on this machine; labels flow beside the transactions.
"""

import json
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benchmarks.machine import machine
from pipeline.durations import parse_duration
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import DECISIONS
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Stack
from stack.services import services

WARM_SECONDS = 5.0
DRAIN_SECONDS_MAX = 30.0
POLL_MS = 10
LINGER_MS = 1
CUSTOMERS, TERMINALS = 5_000, 10_000


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from produce to decision, without the first seconds."""

    rate: float
    events: int
    measured: int
    missing: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class DecisionClock:
    """Reads `decisions` in a thread and notes when each transaction's was seen."""

    def __init__(self, servers: str, partitions: int) -> None:
        self.seen: dict[str, float] = {}
        self._stop = threading.Event()
        self._consumer = KafkaConsumer(
            bootstrap_servers=servers.split(","), enable_auto_commit=False, fetch_max_wait_ms=POLL_MS
        )
        self._consumer.assign([TopicPartition(DECISIONS, p) for p in range(partitions)])
        self._consumer.seek_to_beginning()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            polled: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=POLL_MS)
            now = time.time()
            for records in polled.values():
                for record in records:
                    self.seen.setdefault(record.key.decode(), now)
        self._consumer.close()

    def stop(self, wanted: int) -> None:
        """Wait for so many decisions, within reason, and end."""
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while len(self.seen) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        self._stop.set()
        self._thread.join()


def measure(settings: Settings, rate: float, seconds: float) -> Latency:
    """Run the whole road at a rate and measure."""
    events = round(rate * (seconds + WARM_SECONDS))
    sent: dict[str, float] = {}
    with (
        Stack(settings, attached=True, say=_say) as endpoints,
        services(("worker", "trainer"), settings, endpoints, _say),
    ):
        clock = DecisionClock(endpoints.kafka_servers, settings.partitions)
        days = 2 * events // (2 * CUSTOMERS) + 2
        publish(
            limited(simulate(SimulatorOptions(CUSTOMERS, TERMINALS, days)), events),
            load_schema(settings.schema),
            endpoints.kafka_servers,
            pace=Pace(rate=rate),
            labels=LabelOptions(delay_ms=parse_duration("1h"), genuine_share=0.1),
            watch=Watch(on_send=sent.__setitem__),
            linger_ms=LINGER_MS,
        )
        clock.stop(len(sent))
    first = min(sent.values())
    judged = [key for key, moment in sent.items() if moment >= first + WARM_SECONDS]
    waits = [clock.seen[key] - sent[key] for key in judged if key in clock.seen]
    p50, p95, p99, p999, most = np.quantile(waits, [0.5, 0.95, 0.99, 0.999, 1.0]) * 1000
    missing = len(judged) - len(waits)
    return Latency(rate, events, len(waits), missing, *(round(float(q), 2) for q in (p50, p95, p99, p999, most)))


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option("--rate", default=1_000.0, show_default=True, help="Transactions a second.")
@click.option("--seconds", default=60.0, show_default=True, help="How long is measured.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to a file as well.")
def main(rate: float, seconds: float, as_json: bool, out: Path | None) -> None:
    """Measure produce-to-decision latency on this machine."""
    with TemporaryDirectory(prefix="fraudstream-") as folder:
        found = measure(replace(Settings(), state_dir=folder), rate, seconds)
    record = json.dumps({**asdict(found), "machine": machine()})
    if out is not None:
        out.write_text(record + "\n", encoding="utf-8")
    if as_json:
        click.echo(record)
        return
    click.echo(f"produce to decision at {rate:,.0f} events/s, {found.measured:,} measured, missing {found.missing}")
    click.echo(f"p50 {found.p50_ms} ms   p95 {found.p95_ms} ms   p99 {found.p99_ms} ms   p99.9 {found.p999_ms} ms   max {found.max_ms} ms")


if __name__ == "__main__":
    main()
