"""A Faust consumer that hands over chunks: all records fetched of a partition, as one message.

Faust's own path awaits once for every record, which costs a hundred microseconds; here it awaits
once for a chunk. The message carries the list of records and the offset of the first.

The store, not the group, knows where to read on (`pipeline/commit.py`), so after an assignment the
consumer seeks to what `Owner.take_over` says. A partition hands over no more chunks than are worked
on: it is left out of the next fetch until there is room, so that memory is bounded and no
partition starves another.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Protocol

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

# One chunk is worked on while the next ones wait.
CHUNKS_OF_PARTITION_MAX = 3
# While a partition is held back, the others are asked in short turns, lest it be kept waiting.
HELD_BACK_SECONDS = 0.005


class Owner(Protocol):
    """Who works on the chunks, and knows where each partition stands."""

    async def take_over(self, partitions: Iterable[TP]) -> Mapping[TP, int | None]:
        """Recover assigned partitions; give the offset to read from, `None`: from the first."""
        ...


class ChunkConsumer(driver.Consumer):
    """The consumer of the worker's Faust application; `owner` is set when the worker is built."""

    owner: Owner

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_work: Counter[TP] = Counter()
        self._room = asyncio.Event()

    def finished(self, tp: TP) -> None:
        """Say that a chunk of a partition was worked on."""
        self._in_work[tp] = max(self._in_work[tp] - 1, 0)
        self._room.set()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """Fetch once, and give a message for each partition that had records."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        generation = self.app.consumer_generation_id
        records = await self._fetch(timeout)
        for tp, chunk in records.items():
            moved = self.app.consumer_generation_id != generation
            if self.should_stop or moved or not self.flow_active:
                break
            if tp not in self._get_active_partitions():
                continue
            message: Any = self._to_message(tp, chunk[0])
            message.value = chunk
            # Faust drops what lies before its own mark, and a chunk that is dropped would count as
            # in work for ever. A seek may lie before it: the store knows what is new.
            if message.offset < (self._read_offset.get(tp) or 0):
                self._read_offset[tp] = None
            self._in_work[tp] += 1
            yield tp, message

    async def _fetch(self, timeout: float) -> Mapping[TP, list[Any]]:
        active = set(self._get_active_partitions())
        held = {tp for tp in active if self._in_work[tp] >= CHUNKS_OF_PARTITION_MAX}
        self._room.clear()
        if active == held:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), timeout)
            return {}
        seconds = HELD_BACK_SECONDS if held else timeout
        return await self._getmany(active_partitions=active - held, timeout=seconds)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek every assigned partition to where the store stands."""
        self._in_work.clear()
        found = await self.owner.take_over(self.assignment())
        unknown = [tp for tp, offset in found.items() if offset is None]
        first = await self.earliest_offsets(*unknown) if unknown else {}
        offsets = {tp: first[tp] if offset is None else offset for tp, offset in found.items()}
        for tp, offset in offsets.items():
            self._thread.seek(tp, offset)
        return offsets
