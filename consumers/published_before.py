"""Which records of an outbox a process that is gone had published already.

Only where nobody else has written behind it can that be known: an outbox that was sent in part
lies at the end of its log, as far as it came.
"""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from aiokafka import TopicPartition

from consumers.decision_reader import ANSWER_SECONDS_MAX, connected
from pipeline.commit import OutboxRecord
from pipeline.errors import CommitError
from stack.kafka_address import kafka_of

# An outbox further back than this in its log is taken for one that was not published.
RECORDS_BACK_MAX = 20_000

_place = attrgetter("topic", "partition")
_Found = list[tuple[int, bytes | None, bytes | None]]
"""Offset, key and value of records in the order of their log."""


async def landed_before(
    servers: str, records: Sequence[OutboxRecord], *, topics: Sequence[str]
) -> list[int | None]:
    """Give the offset of each record that is published already; `None` for the others.

    Only these topics are looked through.
    """
    offsets: list[int | None] = [None] * len(records)
    order = sorted(range(len(records)), key=lambda row: _place(records[row]))
    for (topic, partition), group in groupby(order, key=lambda row: _place(records[row])):
        if topic not in topics:
            continue
        rows = list(group)
        place = TopicPartition(kafka_of(servers).topic(topic), partition)
        found = await _last_records(servers, place)
        for row, offset in zip(rows, _run(found, [records[row] for row in rows]), strict=False):
            offsets[row] = offset
    return offsets


def _run(found: _Found, records: Sequence[OutboxRecord]) -> list[int]:
    """Give the offsets of the records where all of them stand, or the first few at the end."""
    wanted = [(record.key, record.value) for record in records]
    written = [(key, value) for _, key, value in found]
    for at, first in enumerate(written):
        count = min(len(wanted), len(written) - at)
        if first == wanted[0] and written[at : at + count] == wanted[:count]:
            return [offset for offset, _, _ in found[at : at + count]]
    return []


async def _last_records(servers: str, place: TopicPartition) -> _Found:
    consumer = await connected(servers, place)
    try:
        first = int((await consumer.beginning_offsets([place]))[place])
        end = int((await consumer.end_offsets([place]))[place])
        consumer.seek(place, max(first, end - RECORDS_BACK_MAX))
        found: _Found = []
        while await consumer.position(place) < end:
            polled = await consumer.getmany(place, timeout_ms=int(ANSWER_SECONDS_MAX * 1000))
            if not polled:
                raise CommitError(f"{place.topic}[{place.partition}] gave nothing")
            found += [(item.offset, item.key, item.value) for item in polled[place]]
        return found
    finally:
        await consumer.stop()
