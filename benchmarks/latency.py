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
from typing import Any, Self

import click
import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benchmarks.machine import machine
from pipeline.durations import parse_duration
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.signing import LabelSigner
from pipeline.topics import DECISIONS
from producers.feed import LabelOptions, limited
from producers.publisher import Pace, Watch, publish
from producers.simulator import SimulatorOptions, simulate
from stack.servers import Stack
from stack.services import services

WARM_SECONDS = 5.0
DRAIN_SECONDS_MAX = 30.0
POLL_MS = 10
# The default of Kafka's own producer since 4.0.
LINGER_MS = 5
CUSTOMERS, TERMINALS = 5_000, 10_000
LABEL_DELAY_MS = parse_duration("1h")
LABEL_SHARE = 0.1
QUANTILES = (0.5, 0.95, 0.99, 0.999, 1.0)


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
            bootstrap_servers=servers.split(","),
            enable_auto_commit=False,
            fetch_max_wait_ms=POLL_MS,
        )
        self._consumer.assign([TopicPartition(DECISIONS, p) for p in range(partitions)])
        self._consumer.seek_to_beginning()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            polled: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=POLL_MS)
            now = time.time()
            for records in polled.values():
                for record in records:
                    self.seen.setdefault(record.key.decode(), now)
        self._consumer.close()

    def wait_for(self, wanted: int) -> None:
        """Wait for so many decisions, within reason."""
        deadline = time.monotonic() + DRAIN_SECONDS_MAX
        while len(self.seen) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)


def measure(settings: Settings, rate: float, seconds: float) -> Latency:
    """Run the whole road at a rate and measure."""
    events = round(rate * (seconds + WARM_SECONDS))
    sent: dict[str, float] = {}
    world = SimulatorOptions(customers=CUSTOMERS, terminals=TERMINALS, days=events // CUSTOMERS + 2)
    with (
        Stack(settings, attached=True, say=_say) as endpoints,
        services(("worker", "trainer"), settings, endpoints, _say),
        DecisionClock(endpoints.kafka_servers, settings.partitions) as clock,
    ):
        publish(
            limited(simulate(world), events),
            load_schema(settings.schema),
            endpoints.kafka_servers,
            pace=Pace(rate=rate),
            labels=LabelOptions(delay_ms=LABEL_DELAY_MS, genuine_share=LABEL_SHARE),
            signer=LabelSigner.of(settings),
            watch=Watch(on_send=sent.__setitem__),
            linger_ms=LINGER_MS,
        )
        clock.wait_for(len(sent))
    return _latency(rate, sent, clock.seen)


def _latency(rate: float, sent: dict[str, float], seen: dict[str, float]) -> Latency:
    first = min(sent.values())
    judged = [key for key, moment in sent.items() if moment >= first + WARM_SECONDS]
    waits = [seen[key] - sent[key] for key in judged if key in seen]
    p50, p95, p99, p999, most = (np.quantile(waits, QUANTILES) * 1000).round(2).tolist()
    return Latency(
        rate=rate,
        events=len(sent),
        measured=len(waits),
        missing=len(judged) - len(waits),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=most,
    )


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
    click.echo(
        f"produce to decision at {rate:,.0f} events/s: "
        f"{found.measured:,} measured, {found.missing} missing"
    )
    click.echo(
        f"p50 {found.p50_ms} ms   p95 {found.p95_ms} ms   p99 {found.p99_ms} ms   "
        f"p99.9 {found.p999_ms} ms   max {found.max_ms} ms"
    )


if __name__ == "__main__":
    main()
