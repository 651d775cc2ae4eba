"""Outboxes on a real broker: each record lands where it belongs, in order, at the offset told."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from consumers.outbox_publisher import BATCH_BYTES_MAX, OutboxPublisher
from pipeline.commit import OutboxRecord
from pipeline.settings import Settings
from pipeline.topics import DEAD_LETTERS, DECISIONS
from tests.integration.processes import read

pytestmark = pytest.mark.integration

Place = tuple[str, int, int]


async def published(settings: Settings, outboxes: Sequence[list[OutboxRecord]]) -> list[list[int]]:
    publisher = OutboxPublisher(settings.kafka_servers)
    await publisher.start()
    on_their_way = [await publisher.publish(records) for records in outboxes]
    offsets = [await acknowledged for acknowledged in on_their_way]
    await publisher.stop()
    return offsets


def one_place(count: int, size: int) -> list[OutboxRecord]:
    chance = random.Random(count)
    return [OutboxRecord(DECISIONS, 1, b"k%d" % n, chance.randbytes(size)) for n in range(count)]


def many_places() -> list[OutboxRecord]:
    chance = random.Random(7)
    places = [(topic, p) for topic in (DEAD_LETTERS, DECISIONS) for p in range(3)]
    return [
        OutboxRecord(*chance.choice(places), b"m%d" % n, b"v" * (n % 50), [("h", b"%d" % n)])
        for n in range(300)
    ]


def test_every_record_lands_in_order_at_the_offset_that_is_told(settings: Settings) -> None:
    # The third takes more than one batch, and its last record is one alone.
    large = one_place(30, BATCH_BYTES_MAX // 12)
    outboxes = [one_place(200, 100), many_places(), large, [], one_place(1, BATCH_BYTES_MAX * 2)]

    offsets = asyncio.run(published(settings, outboxes))

    there: dict[Place, object] = {
        (item.topic, item.partition, item.offset): (item.key, item.value, item.headers)
        for topic in (DECISIONS, DEAD_LETTERS)
        for item in read(settings, topic)
    }
    told: dict[Place, object] = {}
    for records, landed in zip(outboxes, offsets, strict=True):
        for record, offset in zip(records, landed, strict=True):
            place = (record.topic, record.partition, offset)
            assert place not in told
            told[place] = (record.key, record.value, record.headers)
    assert told == there
    for records, landed in zip(outboxes, offsets, strict=True):
        for place in {(record.topic, record.partition) for record in records}:
            mine = [
                offset
                for record, offset in zip(records, landed, strict=True)
                if (record.topic, record.partition) == place
            ]
            assert mine == sorted(mine)
