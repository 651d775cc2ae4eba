"""Alerts that wait for an analyst, and the answer that goes back as a label."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from kafka import KafkaProducer
from redis import Redis

from consumers.redis_store import as_bytes
from pipeline.errors import DataError
from pipeline.events import Label, encode_label
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.schema import Schema
from pipeline.topics import FEEDBACK

SEND_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class ReviewQueue:
    """The alerts of all partitions, as the workers keep them in Redis."""

    redis: Redis
    schema: Schema
    partitions: int

    def alerts(self, limit: int) -> list[DecisionRecord]:
        """Give the alerts that wait, highest score first."""
        found: list[DecisionRecord] = []
        for partition in range(self.partitions):
            for key in self.redis.zrange(f"review:{partition}", 0, limit - 1, desc=True):
                assert isinstance(key, bytes), "the connection decodes nothing"
                found += self._decision(partition, key)
        found.sort(key=lambda decision: (-decision.score, decision.transaction_id))
        return found[:limit]

    def count(self) -> int:
        """Give the number of alerts that wait."""
        return sum(self.redis.zcard(f"review:{p}") for p in range(self.partitions))

    def find(self, transaction_id: str) -> DecisionRecord:
        """Give the decision of a transaction, if it may still get a label."""
        for partition in range(self.partitions):
            for decision in self._decision(partition, transaction_id.encode()):
                return decision
        raise DataError(
            f"no decision of transaction {transaction_id!r} is kept: "
            "it was not decided yet, or too long ago"
        )

    def label(self, decision: DecisionRecord, *, is_fraud: bool, by: str) -> Label:
        """Make an analyst's label of a decision."""
        return Label(
            label_id=f"analyst-{secrets.token_hex(8)}",
            transaction_id=decision.transaction_id,
            key=decision.keys[self.schema.keyed[0].name],
            is_fraud=is_fraud,
            source="analyst",
            label_time_ms=time.time_ns() // 1_000_000,
            by=by,
        )

    def _decision(self, partition: int, key: bytes) -> Iterator[DecisionRecord]:
        value = self.redis.hget(f"w:{partition}", key.decode())
        for decision in decode_decisions([as_bytes(value)] if value else []):
            if decision is not None:
                yield decision


def send_label(label: Label, schema: Schema, kafka_servers: str) -> None:
    """Publish one label, and wait until it is acknowledged."""
    producer = KafkaProducer(bootstrap_servers=kafka_servers.split(","), acks="all")
    try:
        sent = producer.send(FEEDBACK, key=label.key.encode(), value=encode_label(label, schema))
        sent.get(timeout=SEND_SECONDS_MAX)
    finally:
        producer.close()
