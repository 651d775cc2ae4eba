"""Decisions are read back by offset: what is asked for and nothing else, in whatever order."""

import asyncio
from collections.abc import Iterable
from random import Random

import pytest
from kafka import KafkaAdminClient, TopicPartition

from consumers.decision_reader import PASSED_OVER_MAX, DecisionReader
from pipeline.settings import Settings
from pipeline.topics import DECISIONS
from tests.integration.processes import send

pytestmark = [pytest.mark.integration]

RECORDS = 6_000
PARTITION = 1
DELETED = 700


def value_of(offset: int) -> bytes:
    return b"decision %d " % offset + bytes(offset % 300)


@pytest.fixture
def reader_settings(settings: Settings) -> Settings:
    """Decisions in batches of different sizes, of which the first are gone."""
    offset = 0
    while offset < RECORDS:
        count = min(RECORDS - offset, 1 + offset % 700)
        send(settings, DECISIONS, [
            (PARTITION, b"t%d" % number, value_of(number))
            for number in range(offset, offset + count)
        ])  # fmt: skip
        offset += count
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_servers)
    admin.delete_records({TopicPartition(DECISIONS, PARTITION): DELETED})
    admin.close()
    return settings


def read(settings: Settings, *asked: Iterable[int]) -> list[dict[int, bytes]]:
    """Ask one reader for offsets, again and again."""

    async def all_of_them() -> list[dict[int, bytes]]:
        reader = DecisionReader(settings.kafka_servers, PARTITION)
        try:
            return [await asyncio.wait_for(reader.read(offsets), 30) for offsets in asked]
        finally:
            await reader.stop()

    return asyncio.run(all_of_them())


def there(offsets: Iterable[int]) -> dict[int, bytes]:
    return {offset: value_of(offset) for offset in offsets if offset >= DELETED}


RANDOM = Random(5)
ASKED = [
    # Each tenth, in order, as labels come of a stream.
    range(DELETED, 2_000, 10),
    range(2_000, 4_000, 10),
    # Close together, in one batch and over its end.
    [4_001, 4_002, 4_003],
    [4_004],
    range(4_005, 4_900),
    # Beyond what is passed over, and back.
    [RECORDS - 1],
    [DELETED, DELETED + PASSED_OVER_MAX + 1, RECORDS - 1],
    [5_000, 5_000 - PASSED_OVER_MAX],
    # In no order, twice, and with some that are gone.
    RANDOM.choices(range(DELETED, RECORDS), k=500),
    [*RANDOM.sample(range(RECORDS), 50), 3, 0],
    [5, 1],
    [],
    [DELETED],
]


def test_what_is_asked_for_is_given_and_nothing_else(reader_settings: Settings) -> None:
    found = read(reader_settings, *ASKED)

    assert found == [there(offsets) for offsets in ASKED]


def test_reading_on_gives_everything_once_also_after_some_was_passed_over(
    reader_settings: Settings,
) -> None:
    async def read_on() -> list[int]:
        reader = DecisionReader(reader_settings.kafka_servers, PARTITION)
        offsets: list[int] = []
        at = 0
        try:
            while part := await reader.read_on(at, 333):
                assert dict(part) == there(offset for offset, _ in part)
                offsets += [offset for offset, _ in part]
                at = offsets[-1] + 1
                # Somebody asks for single ones in between.
                assert await reader.read([at - 1]) == there([at - 1])
            return offsets
        finally:
            await reader.stop()

    assert asyncio.run(read_on()) == list(range(DELETED, RECORDS))
