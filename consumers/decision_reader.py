"""Decisions of one partition, read back from their log by offset.

What waits for a label is kept in the log alone, since weeks of it do not belong into memory. Labels
that come in the order of their decisions are one long read; others are a seek each.

A decision that the log no longer holds is not found: its label came after the topic's retention.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from consumers.envelope_fetches import guard_clients
from consumers.log_values import Found, Wanted
from pipeline.errors import CommitError
from pipeline.topics import DECISIONS
from stack import async_clients
from stack.kafka_address import kafka_of

# Up to so many decisions are passed over rather than sought past: one fetch holds about as many.
PASSED_OVER_MAX = 3_000
FETCH_BYTES_MAX = 1024 * 1024
# An offset that was acknowledged is there: a broker that does not give it is away. Longer than it
# takes to come back, and less than the watchdog's minute.
ANSWER_SECONDS_MAX = 45.0


class DecisionReader:
    """Reads decisions of one partition; it connects when it is first asked."""

    def __init__(self, servers: str, partition: int) -> None:
        self._servers = servers
        self._place = TopicPartition(kafka_of(servers).topic(DECISIONS), partition)
        self._consumer: AIOKafkaConsumer | None = None
        self._wanted = Wanted()
        # The offset that the next record read will have, once that is known.
        self._next: int | None = None

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def read(self, offsets: Iterable[int]) -> dict[int, bytes]:
        """Give the decisions at these offsets, as far as the log still has them."""
        asked = set(offsets)
        wanted = sorted(asked)
        found: dict[int, bytes] = {}
        while wanted:
            at = self._next
            if at is None or not 0 <= wanted[0] - at <= PASSED_OVER_MAX:
                at = await self._seek(wanted[0])
            near = _near(at, wanted)
            self._wanted.only(near)
            part = await self._poll(len(near))
            first = await self._start() if part is None else self._next
            assert first is not None, "a poll that gave something says where it ended"
            found |= {offset: value for offset, value in part or () if offset in asked}
            wanted = wanted[bisect_left(wanted, first) :]
        return found

    async def read_on(self, offset: int, most: int) -> Sequence[Found]:
        """Give decisions from an offset on, or from the first that the log still has."""
        consumer = await self._connected()
        self._wanted.all()
        if offset != self._next:
            await self._seek(offset)
        end = (await consumer.end_offsets([self._place]))[self._place]
        if offset >= end:
            return []
        part = await self._poll(most)
        return await self.read_on(await self._start(), most) if part is None else part

    async def _poll(self, most: int) -> Sequence[Found] | None:
        """Give the next decisions; `None` where the log begins later."""
        consumer = await self._connected()
        try:
            polled = await consumer.getmany(
                self._place, timeout_ms=int(ANSWER_SECONDS_MAX * 1000), max_records=most
            )
        except OffsetOutOfRangeError:
            self._next = None
            return None
        part: list[Any] = polled.get(self._place, [])
        if not part:
            raise CommitError(
                f"{self._place.topic}[{self._place.partition}] gave nothing from {self._next} on "
                f"for {ANSWER_SECONDS_MAX:.0f} s"
            )
        self._next = int(await consumer.position(self._place))
        return part

    async def _start(self) -> int:
        consumer = await self._connected()
        return int((await consumer.beginning_offsets([self._place]))[self._place])

    async def _seek(self, offset: int) -> int:
        (await self._connected()).seek(self._place, offset)
        self._next = offset
        return offset

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await connected(self._servers, self._place, self._wanted)
        return self._consumer


def _near(at: int, wanted: Sequence[int]) -> Sequence[int]:
    """Give the first of some offsets, up to a gap that is better sought past than read."""
    for count, offset in enumerate(wanted):
        if offset - at > PASSED_OVER_MAX:
            return wanted[:count]
        at = offset
    return wanted


async def connected(
    servers: str, place: TopicPartition, wanted: Wanted | None = None, **options: Any
) -> AIOKafkaConsumer:
    """Connect to one partition, outside of any group; the caller seeks before it reads.

    With `wanted` it gives what is wanted, as pairs of offset and value.
    """
    guard_clients(())
    consumer = async_clients.async_consumer(
        servers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        value_deserializer=wanted,
        **{"max_partition_fetch_bytes": FETCH_BYTES_MAX, **options},
    )
    await consumer.start()
    consumer.assign([place])
    return consumer
