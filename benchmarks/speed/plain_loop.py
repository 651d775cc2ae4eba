"""A plain loop of confluent-kafka with our kernel and model, as a process: the limit.

Profiles stay in memory, nothing is stored, nothing is checked, nobody learns. What it decides is
lost or decided twice at the first crash.

    python -m benchmarks.speed.plain_loop SERVERS OUTPUT
"""

import signal
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer

from benchmarks.speed.material import client
from models import make_model
from pipeline.events import Transactions, no_numbers
from pipeline.features import FeatureKernel
from pipeline.policy import Policy
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from pipeline.records import ACTIONS, FEATURE_DTYPE
from pipeline.schema import load_schema
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS

BATCH_EVENTS = 1_000
WAIT_SECONDS = 0.02
MINOR_UNITS = 100


class Event(msgspec.Struct, gc=False):
    """An event of the card schema, read without checks."""

    transaction_id: str
    event_time: int
    card_id: str
    terminal_id: str
    amount: str
    currency: str


class Decision(msgspec.Struct, gc=False):
    """The same fields as ours, as far as there is anything to say."""

    transaction_id: str
    event_time: int
    keys: dict[str, str]
    amount: int
    currency: str
    action: str
    score: float
    reasons: list[tuple[str, float]]
    model_version: str
    policy_version: str
    schema_hash: str
    features: bytes


class Loop:
    """Kernel, model and policy over profiles in memory."""

    def __init__(self, settings: Settings) -> None:
        schema = load_schema(settings.schema)
        self._kernel = FeatureKernel(schema)
        self._profiles = MemoryProfiles(schema, LearnedProfiles(schema))
        self._model = make_model(settings.model, self._kernel.names, settings.model_options)
        self._policy = Policy(
            self._kernel.table,
            review_score_min=settings.review_score_min,
            decline_score_min=settings.decline_score_min,
        )
        self._decoder = msgspec.json.Decoder(Event)
        self._encoder = msgspec.json.Encoder()

    def decide(self, values: Sequence[bytes]) -> list[bytes]:
        """Give the decision of each event, in JSON."""
        events = [self._decoder.decode(value) for value in values]
        batch = Transactions(
            transaction_id=[event.transaction_id for event in events],
            event_time_ms=np.array([event.event_time for event in events], dtype=np.int64),
            keys=([event.card_id for event in events], [event.terminal_id for event in events]),
            amount_minor=np.array(
                [round(float(event.amount) * MINOR_UNITS) for event in events], dtype=np.int64
            ),
            currency=[event.currency for event in events],
            numbers=no_numbers(len(events)),
        )
        features = self._kernel.read_and_record(batch, self._profiles.open(batch))
        scored = self._model.score(features)
        return self._encoded(events, batch, features, scored)

    def _encoded(
        self, events: Sequence[Event], batch: Transactions, features: Any, scored: Any
    ) -> list[bytes]:
        width = features.shape[1] * FEATURE_DTYPE.itemsize
        packed = features.astype(FEATURE_DTYPE).tobytes()
        actions, reasons = (
            self._policy.actions(scored.scores),
            self._policy.reasons(scored.contributions),
        )
        rows = zip(
            events, batch.amount_minor.tolist(), actions.tolist(), scored.scores.tolist(),
            reasons[:], range(len(events)), strict=True,
        )  # fmt: skip
        return [
            self._encoder.encode(
                Decision(
                    event.transaction_id,
                    event.event_time,
                    {"card": event.card_id, "terminal": event.terminal_id},
                    amount,
                    event.currency,
                    ACTIONS[action],
                    score,
                    why,
                    "additive@0",
                    self._policy.version,
                    self._kernel.schema_hash,
                    packed[place * width : (place + 1) * width],
                )
            )
            for event, amount, action, score, why, place in rows
        ]


def main() -> None:
    """Run until SIGTERM."""
    servers, output = sys.argv[1:]
    loop = Loop(Settings())
    consumer = Consumer(
        client(servers) | {"group.id": "plain-loop", "auto.offset.reset": "earliest"}
    )
    producer = Producer(
        client(servers)
        | {
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    consumer.subscribe([TRANSACTIONS])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    while not stopped:
        messages = [item for item in consumer.consume(BATCH_EVENTS, WAIT_SECONDS) if item.value()]
        if not messages:
            continue
        decided = loop.decide([message.value() for message in messages])
        for message, value in zip(messages, decided, strict=True):
            producer.produce(output, value, message.key(), message.partition())
        producer.poll(0)
    producer.flush()
    consumer.close()


if __name__ == "__main__":
    main()
