"""The lane of one partition of one topic: its chunks wait in order, and are worked on in batches.

Lanes run side by side, so that one partition computes while another waits for Redis or Kafka. What
has gathered in a lane meanwhile becomes one batch: the batch grows with the load by itself.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from faust.types import TP

from consumers.chunks import Chunk
from consumers.dead_letters import EventError, InputRecord, traceback_of
from consumers.input_records import Fetched, InputRecords
from pipeline.errors import FraudstreamError

logger = logging.getLogger(__name__)

# A part that has no room looks again after this time.
HOLD_SECONDS = 0.1


class Part(Protocol):
    """What works on the records of a partition: a scorer, a labeller, a reader of outcomes."""

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed; `None` before the first commit."""

    async def recover(self) -> int | None:
        """Take over where the store stands, and give the position."""

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Work on the first of these records, as many as there is room for; `False`: on none."""

    async def failed(self, records: Sequence[InputRecord], error: EventError) -> None:
        """Forget what a failure of our own code left; a single record becomes a dead letter."""

    async def tick(self) -> None:
        """Do what time has made due; there may be nothing."""

    async def end(self) -> None:
        """Let go of what is held beside the store; there may be nothing."""


@contextmanager
def own_code() -> Iterator[None]:
    """Tell a failure of our own code on the events of a batch from one of a server."""
    try:
        yield
    except (FraudstreamError, MemoryError):
        raise
    except Exception as error:
        raise EventError(error) from error


class Lane:
    """One partition's chunks, in order.

    Parameters
    ----------
    interval_seconds
        A batch begins this long after the one before at the earliest; what comes meanwhile is one
        batch. Where little comes, nothing waits.
    read_again
        Makes the consumer fetch again from an offset.
    finished
        Called with the number of records that were worked on, or given up.
    """

    def __init__(
        self,
        tp: TP,
        part: Part,
        *,
        batch_events_max: int,
        interval_seconds: float,
        read_again: Callable[[TP, int], Awaitable[None]],
        finished: Callable[[TP, int], None],
    ) -> None:
        self.tp, self.part = tp, part
        self._batch_events_max = batch_events_max
        # Smaller while a record is looked for that our own code fails on.
        self._batch_events = batch_events_max
        self._interval_seconds = interval_seconds
        self._began = -interval_seconds
        self._read_again, self._finished = read_again, finished
        self._chunks: deque[Chunk] = deque()
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False
        # Whether the part had no room for what came: then it waits for something else to happen.
        self.is_full = False
        # A batch, a tick and a recovery of one partition must not interleave.
        self.lock = asyncio.Lock()

    @property
    def is_working(self) -> bool:
        """Whether a chunk waits or is worked on."""
        return self._task is not None and not self._task.done()

    def put(self, chunk: Chunk, guard: Callable[[Awaitable[None]], Awaitable[None]]) -> None:
        """Let a chunk wait for its turn; `guard` wraps the work that nobody awaits."""
        self._chunks.append(chunk)
        if not self.is_working:
            self._task = asyncio.ensure_future(guard(self._drain()))

    def clear(self) -> None:
        """Forget what waits: it will be fetched again, by whoever owns the partition."""
        self._finished(self.tp, sum(len(chunk.records) for chunk in self._chunks))
        self._chunks.clear()

    async def end(self) -> None:
        """Forget what waits, and wait for the batch under way; nothing is begun after it."""
        self._has_ended = True
        self.clear()
        async with self.lock:
            self.clear()
            await self.part.end()

    async def tick(self) -> None:
        """Let the part do what time has made due, between two batches."""
        async with self.lock:
            # While it waited for the lock, the partition may have gone to another.
            if not self._has_ended:
                await self.part.tick()

    async def recover(self) -> int | None:
        """Take over where the store stands, and give the position."""
        self.clear()
        async with self.lock:
            self.clear()
            return await self.part.recover()

    async def _drain(self) -> None:
        while self._chunks and not self._has_ended:
            due = self._began + self._interval_seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._began = time.monotonic()
            async with self.lock:
                chunks = list(self._chunks)
                self._chunks.clear()
                left, is_hole = await self._work(chunks)
                self.is_full = left is not None
                if left is not None:
                    self._chunks.appendleft(left)
            worked = sum(len(chunk.records) for chunk in chunks)
            self._finished(self.tp, worked - (len(left.records) if left else 0))
            # Neither may hold the lock: a tick makes room, and a recovery must not wait for us.
            if is_hole:
                self.clear()
                await self._read_again(self.tp, self.part.position or 0)
            elif left is not None:
                await asyncio.sleep(HOLD_SECONDS)

    async def _work(self, chunks: Sequence[Chunk]) -> tuple[Chunk | None, bool]:
        """Work on chunks; gives what there was no room for, and whether records are missing."""
        joined, is_hole = self._joined(chunks)
        if joined is None:
            return None, is_hole
        records = InputRecords(*self.tp, joined.records)
        offsets = [record.offset for record in joined.records]
        while (first := bisect_left(offsets, self.part.position or 0)) < len(offsets):
            if joined.asked > (self.part.position or joined.asked):
                return None, True
            if not await self._handle(records[first : first + self._batch_events]):
                return Chunk(joined.asked, joined.records[first:]), False
        return None, is_hole

    async def _handle(self, records: Sequence[InputRecord]) -> bool:
        """Let the part work on records; where that fails, the next try is with half of them.

        So a record that our own code fails on comes to stand alone, and is refused alone.
        """
        try:
            done = await self.part.handle(records)
        except EventError as error:
            logger.error(
                "internal error: topic=%s partition=%d offset=%d records=%d\n%s",
                *self.tp, records[0].offset, len(records), traceback_of(error.cause),
            )  # fmt: skip
            await self.part.failed(records, error)
            self._batch_events = max(1, len(records) // 2)
            return True
        self._batch_events = min(2 * self._batch_events, self._batch_events_max)
        return done

    def _joined(self, chunks: Sequence[Chunk]) -> tuple[Chunk | None, bool]:
        """Join chunks as far as each was asked for where the one before ended, or earlier."""
        reached = self.part.position
        records: list[Fetched] = []
        count = 0
        for chunk in chunks:
            if reached is not None and chunk.asked > reached:
                logger.warning(
                    "read again: topic=%s partition=%d offset=%d expected=%d",
                    *self.tp, chunk.asked, reached,
                )  # fmt: skip
                break
            # What was fetched twice is worked on once.
            known = reached if records and reached else 0
            first = 0 if chunk.asked >= known else bisect_left(chunk.records, known, key=_offset)
            records += chunk.records[first:] if first else chunk.records
            reached = max(reached or 0, chunk.end)
            count += 1
        is_hole = count < len(chunks)
        return (Chunk(chunks[0].asked, records) if records else None), is_hole


def _offset(record: Fetched) -> int:
    return record.offset
