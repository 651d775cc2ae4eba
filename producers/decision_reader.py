"""The decisions topic, read from now on: how a producer hears what was decided.

It belongs to no consumer group and commits nothing, so it takes no partition from anybody.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pipeline.errors import SettingError
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.topics import DECISIONS
from producers.publisher import wait_for_any
from stack import kafka_clients
from stack.kafka_address import kafka_of
from stack.kafka_clients import no_broker

POLL_RECORDS_MAX = 4_000
CONNECT_MS = 10_000


class DecisionReader(Protocol):
    """Gives decisions as they are published."""

    def poll(self, wait_ms: int) -> list[DecisionRecord]:
        """Give what has come, waiting for it no longer than that."""


class _KafkaDecisions:
    """The decisions topic, from now on; it belongs to no group and commits nothing."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def poll(self, wait_ms: int) -> list[DecisionRecord]:
        """Give what has come; a record that is no decision is passed over."""
        try:
            polled = self._consumer.poll(timeout_ms=wait_ms, max_records=POLL_RECORDS_MAX)
        except KafkaError:
            # A broker that is away is waited for as long as a worker that is.
            time.sleep(wait_ms / 1_000)
            return []
        values = [record.value for records in polled.values() for record in records]
        return [decision for decision in decode_decisions(values) if decision is not None]


@contextmanager
def reading_decisions(servers: str) -> Iterator[DecisionReader]:
    """Read the decisions that are published from now on."""
    wait_for_any(servers)
    try:
        consumer = kafka_clients.consumer(
            servers,
            client_id="fraudstream-closed-loop",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            max_poll_records=POLL_RECORDS_MAX,
            bootstrap_timeout_ms=CONNECT_MS,
            metrics_enabled=False,
        )
    except KafkaError as error:
        raise no_broker(servers) from error
    try:
        topic = kafka_of(servers).topic(DECISIONS)
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise SettingError(
                f"topic {topic!r} does not exist at {servers}: create the topics "
                "(fraudstream topics)"
            )
        places = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(places)
        # Asked for now: a position that is looked up with the first poll would miss some.
        for place, offset in consumer.end_offsets(places).items():
            consumer.seek(place, offset)
        yield _KafkaDecisions(consumer)
    finally:
        consumer.close(autocommit=False)
