"""Measure how many decisions, with their labels, the monitor takes in a second.

`python -m benchmarks.monitor --customers 700 --days 75` replays simulated payments with labels
seven days later, keeps the records that a worker would have published, and gives them to a monitor
as they come from Kafka: bytes, decoding included. One thread, no broker; processor time, so that
what else the machine does counts little.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import numpy as np

from benchmarks.machine import machine
from consumers.monitor import build_monitor, observe
from pipeline.durations import parse_duration
from pipeline.engine import Decisions
from pipeline.feedback import Settled
from pipeline.monitor_samples import monitor_samples
from pipeline.records import encode_record
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, TRAINING
from producers.simulator import SimulatorOptions, simulate

LABEL_DELAY_MS = parse_duration("7d")
# What one poll brings while the monitor catches up.
POLL_RECORDS = 2_000


@dataclass(frozen=True, slots=True)
class Record:
    """A record as the Kafka client gives it, as far as the monitor looks."""

    value: bytes
    offset: int
    timestamp: int


class Recorded:
    """What a worker would have published of a replay, in order."""

    def __init__(self) -> None:
        self.log: dict[str, list[Record]] = {DECISIONS: [], TRAINING: []}
        self.order: list[str] = []

    def add_decisions(self, decisions: Decisions) -> None:
        """Keep a batch of decisions."""
        offsets = np.arange(decisions.rows.max() + 1) + len(self.log[DECISIONS])
        for record in decisions.records("transactions", 0, offsets.tolist()):
            self._add(DECISIONS, encode_record(record))

    def add_settled(self, settled: Sequence[Settled]) -> None:
        """Keep the examples of labels that are to be learned."""
        for item in settled:
            if item.decision is not None:
                self._add(TRAINING, encode_record(item.example(partition=0)))

    def _add(self, topic: str, value: bytes) -> None:
        self.order.append(topic)
        self.log[topic].append(Record(value, len(self.log[topic]), 0))

    def polls(self) -> Iterator[tuple[str, list[Record]]]:
        """Give the records in the order they were published, a poll at a time."""
        done = dict.fromkeys(self.log, 0)
        for start in range(0, len(self.order), POLL_RECORDS):
            part = self.order[start : start + POLL_RECORDS]
            for topic in self.log:
                begin, done[topic] = done[topic], done[topic] + part.count(topic)
                if done[topic] > begin:
                    yield topic, self.log[topic][begin : done[topic]]


def _world(options: SimulatorOptions) -> Iterator[Labelled]:
    return ((batch.transactions(), batch.is_fraud) for batch in simulate(options))


@click.command()
@click.option("--customers", default=700, show_default=True, help="Simulated cards.")
@click.option("--days", default=75, show_default=True, help="Simulated days.")
def main(customers: int, days: int) -> None:
    """Measure the monitor."""
    recorded = Recorded()
    world = SimulatorOptions(customers=customers, terminals=2 * customers, days=days)
    replay = Replay(
        load_schema("card"),
        Settings(),
        ReplayOptions(label_delay_ms=LABEL_DELAY_MS),
        decided=recorded.add_decisions,
        settled=recorded.add_settled,
    )
    replay.run(_world(world), lambda result: None)
    monitor = build_monitor(Settings(), kafka_servers="none:1").monitor
    started = time.process_time()
    for topic, records in recorded.polls():
        observe(monitor, topic, records)
    seconds = time.process_time() - started
    samples = len(monitor_samples(monitor))
    scrape = time.process_time()
    monitor_samples(monitor)
    figures = {
        "decisions": len(recorded.log[DECISIONS]),
        "labels": len(recorded.log[TRAINING]),
        "seconds": round(seconds, 2),
        "decisions_per_second": round(len(recorded.log[DECISIONS]) / seconds),
        "samples": samples,
        "scrape_ms": round((time.process_time() - scrape) * 1000, 1),
    }
    click.echo(json.dumps({**figures, "machine": machine()}, indent=2))


if __name__ == "__main__":
    main()
