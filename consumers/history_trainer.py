"""The trainer of a history: it learns when it is told to, up to where it is told to.

All else is the trainer's own: the same fold, commits, rows and versions. Versions are published
when the caller says so, since the clock of the wall means nothing to history; those between are
in force without ever being published, as each is the fold of the log up to its number.
"""

import asyncio
import contextlib
from dataclasses import replace

from aiokafka import AIOKafkaConsumer

from consumers.model_feed import Versions
from consumers.trainer import Trainer, connected_to
from pipeline.engine import Version
from pipeline.errors import CommitError
from pipeline.schema import Schema
from pipeline.settings import Settings

# Nothing is published for its age.
NEVER_SECONDS = 1e12


class HistoryTrainer(Trainer):
    """A trainer without a loop of its own."""

    def __init__(self, settings: Settings, schema: Schema, *, kafka_servers: str, redis_url: str):
        settings = replace(settings, snapshot_interval_seconds=NEVER_SECONDS)
        super().__init__(settings, schema, kafka_servers=kafka_servers, redis_url=redis_url)
        self._consumer: AIOKafkaConsumer | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Take over where the store stands; refused while another trainer is at work."""
        await self._publisher.start()
        if not await self._lease.take():
            raise CommitError("a trainer is at work on this Redis: stop it before history is read")
        self._keeping = asyncio.create_task(self._lease.keep())
        self._consumer = await connected_to(self._servers)
        await self._build(self._consumer)
        if not await self._take_over(self._consumer):
            raise CommitError("another trainer has committed meanwhile: stop it")

    @property
    def versions(self) -> Versions:
        """The models as they are now."""
        champion, *challengers = (
            Version(model, self._learner.offset) for model in self._learner.models
        )
        return champion, challengers

    async def learn(self) -> None:
        """Learn up to the end that the training log has now."""
        assert self._consumer is not None, "learning has not begun"
        [place] = self._consumer.assignment()
        end = (await self._consumer.end_offsets([place]))[place]
        while self._learner.offset < end:
            self._check(is_ours=await self._step(self._consumer))

    async def publish(self) -> None:
        """Publish the models as they are, if they have learned anything since."""
        if self._learner.offset > max(0, self._published_offset):
            self._check(is_ours=await self._commit([], list(self._snapshot_records())))

    async def end(self) -> None:
        """Let go of the lease, and disconnect."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
            await self._lease.release()
        if self._consumer is not None:
            await self._consumer.stop()
        await self._publisher.stop()
        await self._store.close()

    def _check(self, *, is_ours: bool) -> None:
        if not is_ours or (self._keeping is not None and self._keeping.done()):
            raise CommitError("another trainer or backfill is at work: this one ends")
