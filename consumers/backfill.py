"""History from a file, worked off by the very parts that work on topics.

Each partition has its scorer and its labeller, and one trainer learns; they are the worker's and
the trainer's own, and only their records come from a file (`pipeline/history.py`). So decisions,
profiles, the index, labels, training examples and models become what they would have become live.
One step of event time follows the other, and each part of a step its predecessor:

1. The labels that became known before the step are joined, with decisions that are in the index.
2. The trainer learns to the end of its log; its models are in force from now on.
3. The step's events are decided, one partition after the other. Each commit puts into the index
   what the commit before it decided.
4. Decisions that are old enough mature.

What was decided last is put into the index by a commit of its own only where somebody is about to
look there: a label speaks of it, one waits, or decisions mature.

Every part has its fenced position as ever, under names of its own (`backfill.transactions:0`). A
run that was killed reads the file again and passes over what the positions say is done. Which part
of a step it stopped in follows from the scorers' positions alone: no step begins to decide before
the one before it is wholly done, and none learns once it has begun to decide.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from consumers.dead_letters import EventError, InputRecord
from consumers.history_trainer import HistoryTrainer
from consumers.labeller import Labeller
from consumers.lease import Lease
from consumers.model_feed import Versions
from consumers.outbox_publisher import OutboxPublisher
from consumers.published_before import landed_before
from consumers.redis_profiles import ProfileCache
from consumers.redis_store import RedisStore
from consumers.rules_file import RulesFile
from consumers.scorer import Parts, Scorer
from pipeline.commit import OutboxRecord
from pipeline.controls import Controls
from pipeline.counts import WorkerCounts
from pipeline.durations import DAY_MS
from pipeline.errors import CommitError, DataError, FraudstreamError
from pipeline.history import PREFIX, HistoryRecord, HistoryStep
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import LabelVerifier
from pipeline.topics import DECISIONS, FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.warm_up import warm_up

LEASE = "backfill"


@dataclass(slots=True)
class InForce:
    """The versions in force, as the trainer has them in this process."""

    in_force: Versions | None = None


@dataclass(frozen=True, slots=True)
class Observing:
    """The word of operators over history: nothing of it was ever acted on by us."""

    state: Controls = field(default_factory=lambda: Controls("observe"))


class Backfill:
    """Works off history; what it holds is let go of at the end of its block."""

    def __init__(self, settings: Settings, schema: Schema, *, kafka_servers: str, redis_url: str):
        self._settings, self._schema, self._servers = settings, schema, kafka_servers
        self.store = RedisStore(redis_url, retry_seconds_max=settings.retry_seconds_max)
        self._trainer = HistoryTrainer(
            settings, schema, kafka_servers=kafka_servers, redis_url=redis_url
        )
        self._publisher = OutboxPublisher(kafka_servers)
        self._feed = InForce()
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lease = Lease(self.store.redis, LEASE, self.owner)
        self._keeping: asyncio.Task[None] | None = None
        self._is_recovering = True
        self.counts = WorkerCounts(schema=schema.name)
        self._profiles = ProfileCache(self.store, schema)
        parts = Parts(
            settings=settings,
            schema=schema,
            store=self.store,
            profiles=self._profiles,
            publish=self._publish,
            kafka_servers=kafka_servers,
            feed=self._feed,
            controls=Observing(),
            # These labels come from no topic: whoever runs this has the file in his hands.
            label_verifier=LabelVerifier(None),
            rules=RulesFile(settings, schema, self.counts),
            counts=self.counts,
            owner=self.owner,
            prefix=PREFIX,
        )
        partitions = range(settings.partitions)
        self._scorers = [Scorer(parts, p) for p in partitions]
        self._labellers = [Labeller(parts, p) for p in partitions]
        # All events before this number are in the index.
        self._indexed = 0
        # Whether anything was published that the trainer may not have seen.
        self._has_examples = True
        self._day: int | None = None
        self._first_ms: int | None = None

    async def __aenter__(self) -> Self:
        warm_up(self._schema, self._settings)
        try:
            await self.store.check()
            if not await self._lease.take():
                raise CommitError("another backfill is at work on this Redis: wait for its end")
        except FraudstreamError:
            await self.store.close()
            raise
        self._keeping = asyncio.create_task(self._lease.keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for part in (*self._scorers, *self._labellers):
            if error is None or isinstance(part, Labeller):
                await part.end()
        await self._profiles.end()
        await self._trainer.end()
        if self._keeping is not None:
            self._keeping.cancel()
            await self._lease.release()
        await self._publisher.stop()
        await self.store.close()

    async def recover(self) -> int:
        """Take over where the store stands; gives the number of the first event not begun with."""
        await self._publisher.start()
        await self._publisher.check_partitions(
            (TRANSACTIONS, FEEDBACK, DECISIONS), self._settings.partitions
        )
        for part in (*self._scorers, *self._labellers):
            await part.recover()
        self._is_recovering = False
        await self._trainer.begin()
        self._feed.in_force = self._trainer.versions
        return self._reached

    async def step(self, step: HistoryStep) -> None:
        """Do one step, or what is not done of it yet."""
        if self._first_ms is None:
            self._first_ms = step.start_ms
        day, self._day = self._day, step.start_ms // DAY_MS
        if step.events and self._reached > step.end:
            return
        if self._reached <= step.first:
            await self._learn(step, is_new_day=day is not None and day != self._day)
        for chunk in step.chunks:
            for p, records in chunk.items():
                await self._handle(self._scorers[p], TRANSACTIONS, p, records)
        if step.events:
            await self._mature(step)

    async def finish(self) -> None:
        """Index what was decided last, and publish the models as they are after the last step."""
        await self._index()
        await self._trainer.publish()

    async def _index(self) -> None:
        """Put all that was decided into the index."""
        for scorer in self._scorers:
            await scorer.index()
            self._check()
        self._indexed = self._reached

    @property
    def _reached(self) -> int:
        return max(scorer.position or 0 for scorer in self._scorers)

    async def _learn(self, step: HistoryStep, *, is_new_day: bool) -> None:
        if step.newest >= self._indexed:
            await self._index()
        for p, records in step.labels.items():
            await self._handle(self._labellers[p], FEEDBACK, p, records)
        if self._has_examples:
            await self._trainer.learn()
            self._has_examples = False
        if is_new_day:
            await self._trainer.publish()
        self._feed.in_force = self._trainer.versions

    async def _mature(self, step: HistoryStep) -> None:
        """Let labellers do what time has made due, if anything can be."""
        assert self._first_ms is not None
        is_due = step.last_ms - self._settings.maturity_days * DAY_MS >= self._first_ms
        if is_due or any(labeller.pending for labeller in self._labellers):
            await self._index()
        for labeller in self._labellers:
            commits = -1
            while (is_due or labeller.pending) and commits != self.counts.commits:
                commits = self.counts.commits
                await labeller.tick()
                self._check()

    async def _handle(
        self, part: Scorer | Labeller, topic: str, partition: int, records: Sequence[HistoryRecord]
    ) -> None:
        """Let a part work on its records; one that our own code fails on is refused alone."""
        left = [
            InputRecord(PREFIX + topic, partition, record.offset, record.key, record.value)
            for record in records
            if record.offset >= (part.position or 0)
        ]
        size = limit = self._settings.batch_events_max
        while left:
            try:
                is_done = await part.handle(left[:size])
                size = min(2 * size, limit)
            except EventError as error:
                await part.failed(left[:size], error)
                size, is_done = max(1, min(size, len(left)) // 2), True
            self._check()
            if not is_done:
                raise DataError("too many labels wait for transactions that were not decided")
            left = [record for record in left if record.offset >= (part.position or 0)]

    def _check(self) -> None:
        lost = self._keeping is None or self._keeping.done()
        if lost or self.counts.commits_refused:
            raise CommitError("another process is at work on this Redis: this one ends")

    async def _publish(self, records: Sequence[OutboxRecord]) -> Awaitable[Sequence[int]]:
        """Publish an outbox; one that a run before left behind, only as far as that is needed.

        Elsewhere it is published again as a whole, which does no harm but moves every offset behind
        it, and versions have their names by offsets.
        """
        self._has_examples |= any(record.topic == TRAINING for record in records)
        if not self._is_recovering:
            return await self._publisher.publish(records)
        known = await landed_before(self._servers, records, topics=(DECISIONS, TRAINING))
        missing = [record for record, offset in zip(records, known, strict=True) if offset is None]
        sent = iter(await (await self._publisher.publish(missing)) if missing else ())
        offsets = [next(sent) if offset is None else offset for offset in known]
        landed: asyncio.Future[Sequence[int]] = asyncio.get_running_loop().create_future()
        landed.set_result(offsets)
        return landed
