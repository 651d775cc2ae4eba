"""Alerts that wait for an analyst, and the answer that goes back as a label."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis

from consumers.log_reader import LogReader
from consumers.redis_client import as_bytes
from pipeline.errors import DataError
from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.schema import Schema
from pipeline.signing import LabelSigner
from pipeline.topics import DECISIONS, FEEDBACK
from pipeline.waiting_index import IndexEntry, place_of
from stack import kafka_clients
from stack.kafka_address import kafka_of

SEND_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True)
class ReviewQueue:
    """The alerts of all partitions, as the workers keep them in Redis."""

    redis: Redis
    kafka_servers: str
    schema: Schema
    partitions: int

    def alerts(self, limit: int) -> list[DecisionRecord]:
        """Give the alerts that wait, highest score first."""
        found: list[DecisionRecord] = []
        for partition in range(self.partitions):
            for key in self.redis.zrange(f"review:{partition}", 0, limit - 1, desc=True):
                assert isinstance(key, bytes), "the connection decodes nothing"
                found += self._alert(partition, key.decode())
        found.sort(key=lambda decision: (-decision.score, decision.transaction_id))
        return found[:limit]

    def count(self) -> int:
        """Give the number of alerts that wait."""
        return sum(self.redis.zcard(f"review:{p}") for p in range(self.partitions))

    def find(self, transaction_id: str) -> DecisionRecord:
        """Give the decision of a transaction, if it may still get a label."""
        for partition in range(self.partitions):
            for decision in self._alert(partition, transaction_id):
                return decision
            for decision in self._recorded(partition, transaction_id):
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

    def _alert(self, partition: int, transaction_id: str) -> Iterator[DecisionRecord]:
        value = self.redis.hget(f"alert:{partition}", transaction_id)
        return _decoded([as_bytes(value)] if value else [])

    def _recorded(self, partition: int, transaction_id: str) -> Iterator[DecisionRecord]:
        """Read a decision back from where the index says that it stands."""
        place = place_of(transaction_id)
        # The client sends bytes as they are; its types know text alone.
        data: Any = self.redis.hget(f"w:{partition}:{place.bucket}", cast(str, place.field))
        entry = IndexEntry.unpacked(data) if data else None
        if entry is None or not entry.is_decided:
            return
        with LogReader(self.kafka_servers, DECISIONS, [partition]) as reader:
            if entry.offset < reader.begins[partition]:
                return
            reader.seek(entry.offset)
            [record, *_] = next(reader.chunks())
        for decision in _decoded([record.value]):
            if decision.transaction_id == transaction_id:
                yield decision


def _decoded(values: Sequence[bytes]) -> Iterator[DecisionRecord]:
    return (decision for decision in decode_decisions(values) if decision is not None)


def send_label(label: Label, schema: Schema, kafka_servers: str, signer: LabelSigner) -> None:
    """Sign and publish one label, and wait until it is acknowledged."""
    key, value = label.key.encode(), encode_label(label, schema)
    headers = signer.headers(label.source, key, value)
    producer = kafka_clients.producer(kafka_servers, acks="all")
    topic = kafka_of(kafka_servers).topic(FEEDBACK)
    try:
        sent = producer.send(topic, key=key, value=value, headers=headers)
        sent.get(timeout=SEND_SECONDS_MAX)
    finally:
        producer.close()
