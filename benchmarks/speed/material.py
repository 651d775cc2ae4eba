"""The events that every rival gets: simulated card traffic, encoded once, and labels for some."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Producer

from pipeline.durations import parse_duration
from pipeline.partitioner import partition_of
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.signing import Headers, LabelSigner
from producers.batch import EventBatch, joined
from producers.encoding import SOURCE, LabelEncoder, TransactionEncoder
from producers.feed import limited
from producers.simulator import SimulatorOptions, simulate

# The Handbook's world.
CARDS, TERMINALS, SEED = 5_000, 10_000, 7
LABEL_DELAY_MS = parse_duration("7d")
# One event in so many has a label.
EVENTS_A_LABEL = 10
EVENTS_A_DAY = 8_000
FLUSH_SECONDS_MAX = 120.0
# Topics take no larger batch, though they count compressed bytes.
BATCH_BYTES = 60_000
# Produced before the client is given time to send.
RECORDS_A_POLL = 5_000


def client(servers: str) -> dict[str, Any]:
    """Give what every client is told: where Kafka is, and to keep its troubles to itself."""
    return {"bootstrap.servers": servers, "log_level": 2}


class Record(NamedTuple):
    """What stands in Kafka."""

    partition: int
    key: bytes
    value: bytes
    headers: Headers = ()


class Material:
    """So many events of one world, as columns and as records."""

    def __init__(self, settings: Settings, events: int) -> None:
        self._schema = load_schema(settings.schema)
        world = SimulatorOptions(
            customers=CARDS, terminals=TERMINALS, seed=SEED, days=events // EVENTS_A_DAY + 2
        )
        self.batch: EventBatch = joined(list(limited(simulate(world), events)))
        keys = [key.encode() for key in self.batch.keys[0]]
        places = {key: partition_of(key, settings.partitions) for key in set(keys)}
        values = TransactionEncoder(self._schema).encode(self.batch)
        self.records = [
            Record(places[key], key, value) for key, value in zip(keys, values, strict=True)
        ]

    @property
    def bytes_per_event(self) -> float:
        """The mean length of a value."""
        return sum(len(record.value) for record in self.records) / len(self.records)

    def labels(
        self, signer: LabelSigner, *, step: int, delay_ms: int, events: int | None = None
    ) -> Iterator[Record]:
        """Give a label for one event in `step` of the first, in the order of the events."""
        batch = self.batch
        rows = range(0, len(batch) if events is None else events, step)
        keys = [batch.keys[0][row] for row in rows]
        times = [int(batch.event_time_ms[row]) + delay_ms for row in rows]
        values = LabelEncoder(self._schema).encode(
            [batch.transaction_id[row] for row in rows],
            keys,
            [bool(batch.is_fraud[row] == 1) for row in rows],
            times,
        )
        for row, value in zip(rows, values, strict=True):
            event = self.records[row]
            yield Record(
                event.partition, event.key, value, signer.headers(SOURCE, event.key, value)
            )


def fill(servers: str, topic: str, records: Iterable[Record]) -> int:
    """Put records into a topic, each into its partition; gives how many."""
    producer = Producer(
        client(servers)
        | {
            "linger.ms": 20,
            "batch.size": BATCH_BYTES,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    failed: list[object] = []
    count = 0

    def landed(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    for record in records:
        headers = list(record.headers) or None
        producer.produce(
            topic, record.value, record.key, record.partition, on_delivery=landed, headers=headers
        )
        count += 1
        if count % RECORDS_A_POLL == 0:
            producer.poll(0)
    left = producer.flush(FLUSH_SECONDS_MAX)
    assert not left and not failed, f"{topic}: {left} not sent, {failed[:1]}"
    return count


def new_cards(count: int, *, settings: Settings, first: int, time_ms: int) -> Sequence[Record]:
    """Give one event of each of so many cards that were never seen."""
    schema = load_schema(settings.schema)
    world = SimulatorOptions(customers=count, terminals=TERMINALS, seed=SEED, days=1)
    batch = next(simulate(world))
    rows = [number % len(batch) for number in range(count)]
    part = batch.take(np.array(rows, dtype=np.intp))
    cards = [f"n{first + number}" for number in range(count)]
    part = EventBatch(
        [f"n-{first + number}" for number in range(count)],
        time_ms + np.arange(count, dtype=np.int64),
        (cards, *part.keys[1:]),
        part.amount_minor, part.currency, part.categories, part.numbers, part.is_fraud,
    )  # fmt: skip
    values = TransactionEncoder(schema).encode(part)
    return [
        Record(partition_of(card.encode(), settings.partitions), card.encode(), value)
        for card, value in zip(cards, values, strict=True)
    ]
