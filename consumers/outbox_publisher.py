"""Publishes outboxes: whole batches a partition, acknowledged by all replicas, in order."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import RecordMetadata

from pipeline.commit import OutboxRecord
from pipeline.errors import CommitError, SettingError
from stack import kafka_clients
from stack.kafka_address import kafka_of

BATCH_BYTES_MAX = 900_000
REQUEST_BYTES_MAX = 34 * 1024 * 1024
REQUEST_MS_MAX = 30_000

_place = attrgetter("topic", "partition")
_Sent = tuple[list[int], asyncio.Future[RecordMetadata]]
"""The rows of a batch, and its acknowledgement."""


class OutboxPublisher:
    """An idempotent producer that sends prepared batches; a method of it is a `Publish`."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._topic = kafka_of(servers).topic
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect."""
        self._producer = kafka_clients.async_producer(
            self._servers,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX,
            request_timeout_ms=REQUEST_MS_MAX,
        )
        try:
            await self._producer.start()
        except KafkaConnectionError as error:
            await self._producer.stop()
            raise await kafka_clients.kafka_problem(self._servers) from error

    async def check_partitions(self, topics: Sequence[str], partitions: int) -> None:
        """Refuse a setting that is not so: every record would be in the wrong partition."""
        assert self._producer is not None, "the publisher was not started"
        for topic in map(self._topic, topics):
            found = len(await self._producer.partitions_for(topic))
            if found != partitions:
                raise SettingError(
                    f"topic {topic} has {found} partitions, but partitions is set to {partitions}"
                )

    async def stop(self) -> None:
        """Send what is left, and disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def publish(self, records: Sequence[OutboxRecord]) -> asyncio.Future[list[int]]:
        """Hand records over, those of one partition in their order.

        What it gives is done when all are acknowledged, and holds the offset of each.
        """
        sent: list[_Sent] = []
        order = sorted(range(len(records)), key=lambda row: _place(records[row]))
        for (topic, partition), rows in groupby(order, key=lambda row: _place(records[row])):
            sent += await self._send(topic, partition, list(rows), records)
        return asyncio.ensure_future(self._landed(sent, len(records)))

    async def _landed(self, sent: Sequence[_Sent], count: int) -> list[int]:
        offsets = [0] * count
        await asyncio.gather(*(future for _, future in sent))
        for batch, future in sent:
            landed = future.result()
            if landed.offset < 0:
                raise CommitError(f"{landed.topic}[{landed.partition}]: Kafka named no offset")
            for step, row in enumerate(batch):
                offsets[row] = landed.offset + step
        return offsets

    async def _send(
        self, topic: str, partition: int, rows: list[int], records: Sequence[OutboxRecord]
    ) -> list[_Sent]:
        """Send the records of one partition in batches; gives the rows of each batch."""
        assert self._producer is not None, "the publisher was not started"
        producer, topic = self._producer, self._topic(topic)
        sent: list[_Sent] = []
        batch, held = producer.create_batch(), list[int]()
        for row in rows:
            record = records[row]
            content = {"key": record.key, "value": record.value, "headers": record.headers}
            if batch.append(timestamp=None, **content) is None:
                sent.append((held, await producer.send_batch(batch, topic, partition=partition)))
                batch, held = producer.create_batch(), []
                # The first record of a batch always fits: larger ones are sent alone.
                batch.append(timestamp=None, **content)
            held.append(row)
        sent.append((held, await producer.send_batch(batch, topic, partition=partition)))
        return sent
