"""A Faust consumer that hands over chunks: all records fetched of a partition, as one message.

Faust's own path awaits once for every record, which costs a hundred microseconds; here it awaits
once for a chunk. The store, not the group, knows where to read on (`pipeline/commit.py`), so after
an assignment the consumer seeks to what `Owner.take_over` says, and what it commits to the group
is the store's position, for lag displays alone.

A chunk carries the offset that was asked for, so that its reader can tell a hole in the log itself
(legal: transactions leave markers) from records that were lost on the way. No fetch spans a seek.
A partition with enough records in work is left out of the next fetch until there is room, so that
memory is bounded and no partition starves another. Enough is more than a batch: while records of a
partition lie fetched and not taken, aiokafka lets the whole broker wait, for up to 100 ms.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from consumers.envelope_fetches import guard_clients
from consumers.gathering import Gathering
from pipeline.commit import resume_at

logger = logging.getLogger(__name__)

# Beyond so many records of a partition in work, no more are taken of it.
RECORDS_IN_WORK_MAX = 4096
# While a partition is held back, the others are asked in short turns, lest it be kept waiting.
HELD_BACK_SECONDS = 0.005
# The broker may take so long to say where its logs end.
UNREAD_SECONDS_MAX = 4.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one partition in their order; `asked` is the offset they were fetched from."""

    asked: int
    records: Sequence[Any]

    @property
    def end(self) -> int:
        """The offset after the last record."""
        return int(self.records[-1].offset) + 1


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the log of a partition was fetched, and where it ends."""

    fetched: int
    end: int

    @property
    def unread(self) -> int:
        """How many records have not been fetched yet."""
        return self.end - self.fetched


class Owner(Protocol):
    """Who works on the chunks, and knows where each partition stands."""

    async def take_over(self, partitions: Iterable[TP]) -> Mapping[TP, int | None]:
        """Recover assigned partitions; give the offset to read from, `None`: from the first."""

    def begin(self, offsets: Mapping[TP, int]) -> None:
        """Take note of where reading begins."""

    def positions(self) -> Mapping[TP, int]:
        """Give the committed position of each partition owned."""

    @property
    def inputs(self) -> Collection[str]:
        """What Kafka calls the topics that others write."""

    @property
    def gathering_seconds(self) -> float:
        """Where much comes, the broker gathers for so long before it answers a fetch."""

    def end_process(self, error: BaseException) -> None:
        """End the process: it cannot go on."""


class _NothingRead(dict[TP, int | None]):
    """Faust would drop what it takes for read before; what was read is for the store to say."""

    def __getitem__(self, tp: TP) -> None:
        return None


class ChunkConsumer(driver.Consumer):
    """The consumer of the worker's Faust application; `owner` is set when the worker is built."""

    owner: Owner

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        guard_clients(self.owner.inputs)
        self._read_offset = _NothingRead()
        self._in_work: Counter[TP] = Counter()
        self._asked: dict[TP, int] = {}
        self._room = asyncio.Event()
        self._fetching = asyncio.Lock()
        self._gathering = Gathering(self.owner.gathering_seconds)

    def finished(self, tp: TP, records: int) -> None:
        """Say that records of a partition were worked on, or given up."""
        self._in_work[tp] = max(self._in_work[tp] - records, 0)
        self._room.set()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Fetch once, and give a message for each partition that had records."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        generation = self.app.consumer_generation_id
        async with self._fetching:
            chunks = self._chunks(await self._fetch(timeout))
        for tp, chunk in chunks.items():
            moved = self.app.consumer_generation_id != generation
            if self.should_stop or moved or not self.flow_active:
                break
            if tp not in self._get_active_partitions():
                continue
            message = self._message(tp, chunk)
            self._in_work[tp] += len(chunk.records)
            yield tp, message

    def _message(self, tp: TP, chunk: Chunk) -> ConsumerMessage:
        first, generation = chunk.records[0], self.app.consumer_generation_id
        seconds, kind, value = first.timestamp / 1000, first.timestamp_type, cast(Any, chunk)
        return ConsumerMessage(
            *tp, first.offset, seconds, kind, None, None, value, None, 0, 0, tp,
            generation_id=generation,
        )  # fmt: skip

    def _chunks(self, fetched: Mapping[Any, list[Any]]) -> dict[TP, Chunk]:
        chunks = {}
        for place, records in fetched.items():
            tp = TP(*place)
            chunks[tp] = Chunk(self._asked.get(tp, records[0].offset), records)
            self._asked[tp] = chunks[tp].end
        return chunks

    async def _fetch(self, timeout: float) -> Mapping[Any, list[Any]]:
        active = {TP(*tp) for tp in self._get_active_partitions()}
        held = {tp for tp in active if self._in_work[tp] >= RECORDS_IN_WORK_MAX}
        self._room.clear()
        if active == held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), timeout)
            return {}
        seconds = HELD_BACK_SECONDS if held else timeout
        fetched = await self._getmany(active_partitions=active - held, timeout=seconds)
        self._pace(sum(map(len, fetched.values())))
        return fetched

    def _pace(self, records: int) -> None:
        fewest, wait = self._gathering.after(records=records, now=time.monotonic())
        fetcher = self._thread._ensure_consumer()._fetcher  # noqa: SLF001 - there is no other door
        fetcher._fetch_min_bytes = fewest  # noqa: SLF001
        fetcher._fetch_max_wait_ms = wait  # noqa: SLF001

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to where the store stands."""
        try:
            async with self._fetching:
                self._in_work.clear()
                found = await self.owner.take_over(self.assignment())
                offsets = await self._within_log(found)
                await self._seek_all(offsets)
                self.owner.begin(offsets)
                return offsets
        except Exception as error:
            # Faust would go on without the partitions, or end without a word.
            self.owner.end_process(error)
            raise

    def log_end(self, tp: TP) -> int | None:
        """Give where the log of a partition ended when it was last fetched from, if ever."""
        # While partitions are handed over, the client may have let go of it already.
        with contextlib.suppress(AssertionError):
            end: int | None = self._thread.highwater(tp)
            return end
        return None

    async def extents(self) -> Mapping[TP, Extent]:
        """Give how far each assigned partition was fetched, and where its log ends."""
        consumer = self._thread._ensure_consumer()  # noqa: SLF001 - there is no other door

        async def count() -> dict[TP, Extent]:
            # The client's own position passes what it hands over to nobody: markers at the end.
            places = list(consumer.assignment())
            # What is done in this thread must not keep a seek waiting while the broker is away.
            async with asyncio.timeout(UNREAD_SECONDS_MAX):
                ends = await consumer.end_offsets(places)
                return {
                    TP(*place): Extent(await consumer.position(place), ends[place])
                    for place in places
                }

        counted: Mapping[TP, Extent] = await self._thread.call_thread(count)
        return counted

    async def read_again(self, tp: TP, offset: int) -> None:
        """Fetch a partition again from an offset."""
        async with self._fetching:
            # While it waited for the fetch, the partition may have gone to another.
            if tp in self.assignment():
                await self._seek_all({tp: offset})

    async def _within_log(self, found: Mapping[TP, int | None]) -> dict[TP, int]:
        """Give the offsets to seek to; one that the log does not have is never passed over."""
        if not found:
            return {}
        first, end = await self.earliest_offsets(*found), await self.highwaters(*found)
        return {
            tp: resume_at(f"{tp.topic}[{tp.partition}]", offset, first=first[tp], end=end[tp])
            for tp, offset in found.items()
        }

    async def _seek_all(self, offsets: Mapping[TP, int]) -> None:
        # Only the consumer's own thread may seek: it may be taking records out at this moment, and
        # would then set the position behind them, or find them gone and fail.
        async def seek() -> None:
            for tp, offset in offsets.items():
                self._thread.seek(tp, offset)

        await self._thread.call_thread(seek)
        self._asked.update({TP(*tp): offset for tp, offset in offsets.items()})

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Tell the group where the store stands; that it fails matters to nobody but displays."""
        assigned = self.assignment()
        offsets = {
            TopicPartition(*tp): OffsetAndMetadata(offset, "")
            for tp, offset in self.owner.positions().items()
            if tp in assigned
        }
        try:
            if offsets:
                consumer = self._thread._ensure_consumer()  # noqa: SLF001 - there is no other door
                await self._thread.call_thread(consumer.commit, offsets)
        except Exception as error:
            logger.info("group commit failed: %r", error)
            return False
        return True
