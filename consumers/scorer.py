"""The scorer of one partition of `transactions`: decode, load profiles, decide, commit, publish.

Its position is `offset:step`: the next offset of `transactions`, and 1 once a step without events
has put into the index where the last decisions landed. Usually the next batch does that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from consumers.dead_letters import EventError, InputRecord, dead_letter, internal_error
from consumers.input_records import columns_of
from consumers.lane import Part, own_code
from consumers.model_feed import Versions
from consumers.redis_client import as_bytes
from consumers.redis_ids import RedisIds
from consumers.redis_profiles import ProfileCache, RedisProfiles
from consumers.redis_store import RedisStore, stored_number
from consumers.rules_file import RulesFile
from consumers.timing import timed
from consumers.waiting_store import index_changes
from pipeline.admission import Admission
from pipeline.commit import Change, Input, OutboxRecord, Publish
from pipeline.controls import Controls
from pipeline.counts import WorkerCounts
from pipeline.decision_json import encode_decisions
from pipeline.engine import Decisions, Engine
from pipeline.events import Problem, Rejected
from pipeline.features import unusual_amounts
from pipeline.feedback import MemoryWaiting
from pipeline.policy import REVIEW
from pipeline.recent_ids import conflict
from pipeline.records import ACTIONS
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.signing import LabelVerifier
from pipeline.stored_rows import sealed, unsealed
from pipeline.topics import DECISIONS, TRANSACTIONS
from pipeline.transactions import TransactionDecoder

STAGE = "decode"
# An event so far behind the newest of its partition is late: scored all the same, and counted.
LATE_MS = 15 * 60 * 1000


class Feed(Protocol):
    """Says which versions are in force; `None`: no model can be had, and rules decide."""

    in_force: Versions | None


class Said(Protocol):
    """What gives the word of operators that is in force."""

    @property
    def state(self) -> Controls:
        """The state of now."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the scorers and labellers of a worker share.

    Parameters
    ----------
    prefix
        Stands before the names of inputs, where their records come from a file (`backfill.py`).
    """

    settings: Settings
    schema: Schema
    store: RedisStore
    profiles: ProfileCache
    publish: Publish
    kafka_servers: str
    feed: Feed
    controls: Said
    label_verifier: LabelVerifier
    rules: RulesFile
    counts: WorkerCounts
    owner: str
    prefix: str = ""


class Scorer(Part):
    """Decides the transactions of one partition, in order, each once."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._schema = parts.schema
        self._decoder = TransactionDecoder(parts.schema)
        self._admission = Admission(parts.schema, parts.settings, partition)
        self._profiles = RedisProfiles(parts.profiles, partition)
        # Labels are joined by the labeller, from Redis.
        self._ids = RedisIds(parts.settings)
        waiting = MemoryWaiting(1)
        self._engine = Engine(parts.schema, parts.settings, self._profiles, waiting, self._ids)
        self._topic = parts.prefix + TRANSACTIONS
        name = f"{self._topic}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)
        self._watermark_ms = 0
        self._ticked: str | None = None

    async def recover(self) -> int | None:
        """Take over from the last owner; gives the offset to read from, `None` at first."""
        await self._input.recover()
        await self._start_over()
        return self.position

    async def _start_over(self) -> None:
        """Stand where the store stands."""
        key = f"wm:{self._partition}"
        self._watermark_ms = stored_number(key, await self._parts.store.redis.get(key))
        key = f"breaker:{self._partition}"
        stored = as_bytes(await self._parts.store.redis.get(key))
        self._engine.breaker.load(unsealed(key, stored) if stored else b"")

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Decide records that follow each other, unless another owner was before us."""
        counts = self._parts.counts
        with timed(counts, "decode"), own_code():
            given = columns_of(records)
            batch, rows, rejected = self._decoder.decode(given.values)
            batch, rows, refused = self._admission.admit(
                batch, rows, given.timestamps_ms, given.keys
            )
            rejected += refused
        late = int((batch.event_time_ms < self._watermark_ms - LATE_MS).sum())
        with timed(counts, "read"):
            asked = self._ids.ask(batch, watermark_ms=self._watermark_ms)
            self._ids.answer(await self._profiles.load(batch, asked))
        with timed(counts, "decide"), own_code():
            in_force = self._parts.feed.in_force
            if in_force is None:
                self._engine.adopt_rules(self._parts.rules.current)
            else:
                self._engine.adopt(*in_force, self._parts.rules.current)
            self._engine.adopt_controls(self._parts.controls.state)
            decisions = self._engine.decide(batch)
            indexed_ms = self._watermark_ms
            published, changes = self._step(decisions, [given.offsets[row] for row in rows])
            rejected += [
                Rejected(rows[row], conflict(self._schema)) for row in decisions.conflicts.tolist()
            ]
            published += [self._letter(records[item.row], item.problem) for item in rejected]
        # Until here the outbox before was on its way.
        await self._input.published()
        # The ids first: they may refuse the commit.
        changes = [*self._ids.changes(), *self._index_changes(indexed_ms), *changes]
        position = f"{given.offsets[-1] + 1}:0"
        with timed(counts, "commit"):
            committed = await self._input.begin(position, published, changes)
        if not committed:
            await self._refused()
            return True
        counts.events += len(records)
        counts.redriven[TRANSACTIONS] += given.redriven
        counts.late += late
        counts.duplicates += len(batch) - len(decisions) - len(decisions.conflicts)
        self._count(decisions, rejected, in_force[0].offset if in_force else None)
        return True

    def _step(
        self, decisions: Decisions, offsets: Sequence[int]
    ) -> tuple[list[OutboxRecord], list[Change]]:
        """Give what is to be published of decisions, and what their commit must store."""
        p = self._partition
        encoded = encode_decisions(decisions, self._topic, p, offsets)
        keys = map(str.encode, decisions.transaction_ids)
        published = list(map(OutboxRecord, repeat(DECISIONS), repeat(p), keys, encoded))
        return published, self._changes(decisions, encoded)

    async def failed(self, records: Sequence[InputRecord], error: EventError) -> None:
        """Forget what a failure of our own code left; a single record becomes a dead letter."""
        await self._start_over()
        if len(records) > 1:
            return
        [record] = records
        problem = internal_error(error.cause)
        letters = [self._letter(record, problem)]
        await self._input.published()
        changes = self._index_changes(self._watermark_ms)
        if not await self._input.commit(f"{record.offset + 1}:0", letters, changes):
            await self._refused()
            return
        counts = self._parts.counts
        counts.commits += 1
        counts.events += 1
        counts.rejected[problem.reason] += 1

    def _letter(self, record: InputRecord, problem: Problem) -> OutboxRecord:
        return dead_letter(record, problem, stage=STAGE, schema=self._schema)

    async def tick(self) -> None:
        """Where no batch has come for a while, put the last decisions into the index."""
        if not await self._input.is_current():
            await self._refused()
            return
        position, self._ticked = self._ticked, self._input.position
        if position is not None and position == self._input.position:
            await self.index()

    async def index(self) -> None:
        """Put the last decisions into the index now, if they are not in it yet."""
        await self._input.published()
        changes = self._index_changes(self._watermark_ms)
        if not changes:
            return
        if await self._input.commit(f"{self.position}:1", [], changes):
            self._parts.counts.commits += 1
        else:
            await self._refused()

    async def end(self) -> None:
        """Let go of the partition once the last outbox is published."""
        await self._input.published()

    async def _refused(self) -> None:
        self._parts.counts.commits_refused += 1
        await self._start_over()

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed."""
        position = self._input.position
        return None if position is None else int(position.partition(":")[0])

    def _index_changes(self, watermark_ms: int) -> list[Change]:
        p, limit = self._partition, self._parts.settings.feedback_limit
        changes = index_changes(p, self._input.landed, limit=limit)
        # The index lies one commit behind `wm`: no label may be given up by a time it has not seen.
        return [*changes, ("SET", f"wi:{p}", watermark_ms)] if changes else []

    def _changes(self, decisions: Decisions, encoded: Sequence[bytes]) -> list[Change]:
        if not encoded:
            return []
        p = self._partition
        newest_ms = int(decisions.transactions.event_time_ms.max())
        self._watermark_ms = max(self._watermark_ms, newest_ms)
        unusual = unusual_amounts(decisions.features, self._schema)
        return [
            *self._profiles.changes(decisions.transactions, unusual),
            ("SET", f"wm:{p}", self._watermark_ms),
            *self._breaker_changes(),
            # While rules decide, it stays known which version was in force.
            *([] if decisions.degraded else [("SET", f"model:{p}", decisions.model_version)]),
            *self._alert_changes(decisions, encoded),
        ]

    def _breaker_changes(self) -> list[Change]:
        key, breaker = f"breaker:{self._partition}", self._engine.breaker
        return [("SET", key, sealed(key, breaker.state()))] if breaker.is_on else []

    def _alert_changes(self, decisions: Decisions, encoded: Sequence[bytes]) -> list[Change]:
        p = self._partition
        scores: list[str] = []
        alerts: list[str | bytes] = []
        for place in np.flatnonzero(decisions.actions == REVIEW).tolist():
            transaction_id = decisions.transaction_ids[place]
            scores += (repr(float(decisions.scores[place])), transaction_id)
            alerts += (transaction_id, encoded[place])
        if not alerts:
            return []
        return [
            ("ZADD", f"review:{p}", *scores),
            ("HSET", f"alert:{p}", *alerts),
            ("ALERTS", p, self._parts.settings.review_limit),
        ]

    def _count(
        self, decisions: Decisions, rejected: Sequence[Rejected], offset: int | None
    ) -> None:
        counts = self._parts.counts
        counts.commits += 1
        for action, count in zip(ACTIONS, decisions.action_counts, strict=True):
            counts.decisions[action, decisions.mode] += count
        for reason, count in decisions.overruled.items():
            counts.overruled[reason] += count
        counts.breaker_open[self._partition] = self._engine.breaker.is_open
        for item in rejected:
            counts.rejected[item.problem.reason] += 1
        counts.watermark_ms[self._partition] = self._watermark_ms
        counts.degraded += len(decisions) if decisions.degraded else 0
        if offset is not None:
            counts.model_adoptions += offset != counts.model_offset
            counts.model_offset = offset


def is_indexed(position: bytes) -> bool:
    """Say whether the index holds all that was decided up to a position, as the store has it."""
    return position.endswith(b":1")
