"""Publishes outboxes: whole batches a partition, acknowledged by all replicas, in order."""

import asyncio
import itertools
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import RecordMetadata

from pipeline.commit import OutboxRecord
from pipeline.errors import CommitError, SettingError
from stack import async_clients
from stack.kafka_address import kafka_of

BATCH_BYTES_MAX = 900_000
REQUEST_BYTES_MAX = 34 * 1024 * 1024
REQUEST_MS_MAX = 30_000

_Sent = tuple[Sequence[int], asyncio.Future[RecordMetadata]]
"""The rows of a batch, and its acknowledgement."""


class OutboxPublisher:
    """An idempotent producer that sends prepared batches; a method of it is a `Publish`."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._topic = kafka_of(servers).topic
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect."""
        self._producer = async_clients.async_producer(
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
            raise await async_clients.kafka_problem(self._servers) from error

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
        for (topic, partition), rows in _by_place(records):
            sent += await self._send(topic, partition, rows, records)
        return asyncio.ensure_future(self._landed(sent, len(records)))

    async def _landed(self, sent: Sequence[_Sent], count: int) -> list[int]:
        offsets = [0] * count
        await asyncio.gather(*(future for _, future in sent))
        for rows, future in sent:
            landed = future.result()
            if landed.offset < 0:
                raise CommitError(f"{landed.topic}[{landed.partition}]: Kafka named no offset")
            for row, offset in zip(rows, itertools.count(landed.offset), strict=False):
                offsets[row] = offset
        return offsets

    async def _send(
        self, topic: str, partition: int, rows: Sequence[int], records: Sequence[OutboxRecord]
    ) -> list[_Sent]:
        """Send the records of one partition in batches; gives the rows of each batch."""
        assert self._producer is not None, "the publisher was not started"
        producer, topic = self._producer, self._topic(topic)
        sent: list[_Sent] = []
        batch, first = producer.create_batch(), 0
        append = batch.append
        for place, row in enumerate(rows):
            item = records[row]
            key, value, headers = item.key, item.value, item.headers
            if append(timestamp=None, key=key, value=value, headers=headers) is None:
                future = await producer.send_batch(batch, topic, partition=partition)
                sent.append((rows[first:place], future))
                batch, first = producer.create_batch(), place
                append = batch.append
                # The first record of a batch always fits: larger ones are sent alone.
                append(timestamp=None, key=key, value=value, headers=headers)
        future = await producer.send_batch(batch, topic, partition=partition)
        sent.append((rows[first:], future))
        return sent


def _by_place(records: Sequence[OutboxRecord]) -> Iterable[tuple[tuple[str, int], Sequence[int]]]:
    """Give the topics and partitions of records in order, with the rows of each in theirs."""
    places = [(record.topic, record.partition) for record in records]
    if places and places.count(places[0]) == len(places):
        return [(places[0], range(len(places)))]
    rows: dict[tuple[str, int], list[int]] = {}
    for row, place in enumerate(places):
        rows.setdefault(place, []).append(row)
    return sorted(rows.items())
