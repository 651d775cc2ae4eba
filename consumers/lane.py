"""The lane of one partition of one topic: its chunks wait in order, and are worked on in batches.

Lanes run side by side, so that one partition computes while another waits for Redis or Kafka. What
has gathered in a lane meanwhile becomes one batch: the batch grows with the load by itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from faust.types import TP

from consumers.dead_letters import InputRecord

logger = logging.getLogger(__name__)


class Part(Protocol):
    """What works on the records of a partition: a scorer or a labeller."""

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed; `None` before the first commit."""

    async def recover(self) -> int | None:
        """Take over where the store stands, and give the position."""

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Work on records that follow each other; `False` if another owner was before us."""


class Lane:
    """One partition's chunks, in order.

    Parameters
    ----------
    seek
        Makes the consumer fetch again from an offset.
    finished
        Called once for each chunk that was worked on.
    """

    def __init__(
        self,
        tp: TP,
        part: Part,
        *,
        batch_events_max: int,
        seek: Callable[[TP, int], Awaitable[None]],
        finished: Callable[[TP], None],
    ) -> None:
        self.tp, self.part = tp, part
        self._batch_events_max = batch_events_max
        self._seek, self._finished = seek, finished
        self._chunks: deque[Sequence[Any]] = deque()
        self._gap: tuple[int, int] | None = None
        # A batch, a tick and a recovery of one partition must not interleave.
        self.lock = asyncio.Lock()

    def put(self, chunk: Sequence[Any]) -> None:
        """Let a chunk wait for its turn."""
        self._chunks.append(chunk)

    def clear(self) -> None:
        """Forget what waits: it will be fetched again, by whoever owns the partition."""
        self._chunks.clear()

    async def recover(self) -> int | None:
        """Take over where the store stands, and give the position."""
        async with self.lock:
            self.clear()
            self._gap = None
            return await self.part.recover()

    async def drain(self) -> None:
        """Work until nothing waits."""
        while self._chunks:
            async with self.lock:
                chunks = list(self._chunks)
                self._chunks.clear()
                await self._work([record for chunk in chunks for record in chunk])
            for _ in chunks:
                self._finished(self.tp)

    async def _work(self, records: Sequence[Any]) -> None:
        topic, partition = self.tp
        taken = [
            InputRecord(topic, partition, record.offset, record.key, record.value)
            for record in records
        ]
        while taken := [item for item in taken if item.offset >= (self.part.position or 0)]:
            if await self._is_gap(self.part.position, taken[0].offset):
                return
            await self.part.handle(taken[: self._batch_events_max])

    async def _is_gap(self, position: int | None, offset: int) -> bool:
        """Say whether records were skipped, and go back; a gap that stays is in the log itself."""
        if position is None or offset == position or self._gap == (position, offset):
            return False
        logger.warning(
            "gap: topic=%s partition=%d offset=%d expected=%d", *self.tp, offset, position
        )
        self._gap = (position, offset)
        self.clear()
        await self._seek(self.tp, position)
        return True
