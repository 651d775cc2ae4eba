"""The scorer of one partition of `transactions`: decode, load profiles, decide, commit, publish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from consumers.dead_letters import InputRecord, dead_letter
from consumers.model_feed import ModelFeed
from consumers.redis_profiles import RedisProfiles
from consumers.redis_store import RedisStore
from consumers.timing import timed
from pipeline.commit import Change, Input, OutboxRecord, Publish
from pipeline.counts import WorkerCounts
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions, Engine
from pipeline.events import Problem, Rejected, TransactionDecoder, Transactions
from pipeline.feedback import MemoryWaiting
from pipeline.partitioner import partition_of
from pipeline.policy import REVIEW
from pipeline.records import ACTIONS, DecisionRecord, encode_record
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, TRANSACTIONS

STAGE = "decode"
# An event so far behind the newest of its partition is late: scored all the same, and counted.
LATE_MS = 15 * 60 * 1000
# The partition of so many keys is remembered, about 20 MB.
KEYS_REMEMBERED_MAX = 131_072


@dataclass(frozen=True, slots=True)
class Parts:
    """What the scorers and labellers of a worker share."""

    settings: Settings
    schema: Schema
    store: RedisStore
    publish: Publish
    feed: ModelFeed
    counts: WorkerCounts
    owner: str


class Scorer:
    """Decides the transactions of one partition, in order, each once."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._decoder = TransactionDecoder(parts.schema)
        self._profiles = RedisProfiles(parts.store.redis, parts.schema, partition)
        # Labels are joined by the labeller, from Redis.
        self._engine = Engine(parts.schema, parts.settings, self._profiles, MemoryWaiting(1))
        name = f"{TRANSACTIONS}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)
        self._watermark_ms = 0
        self._place = lru_cache(maxsize=KEYS_REMEMBERED_MAX)(
            _place_among(parts.settings.partitions)
        )

    async def recover(self) -> int | None:
        """Take over from the last owner; gives the offset to read from, `None` at first."""
        await self._input.recover()
        await self._start_over()
        return self.position

    async def _start_over(self) -> None:
        """Forget what is cached, and stand where the store stands."""
        self._profiles.forget()
        stored = await self._parts.store.redis.get(f"wm:{self._partition}")
        self._watermark_ms = int(stored or 0)

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Decide records that follow each other, unless another owner was before us."""
        counts = self._parts.counts
        with timed(counts, "decode"):
            decoded = self._decoder.decode([record.value for record in records])
            batch, rows, rejected = self._accepted(records, *decoded)
        late = int((batch.event_time_ms < self._watermark_ms - LATE_MS).sum())
        with timed(counts, "read"):
            await self._profiles.load(batch)
        with timed(counts, "decide"):
            self._engine.adopt(*self._parts.feed.in_force)
            decisions = self._engine.decide(batch)
            offsets = [records[row].offset for row in rows]
            decided = decisions.records(TRANSACTIONS, self._partition, offsets)
            encoded = [encode_record(decision) for decision in decided]
            changes = self._changes(decisions, decided, encoded)
        letters = [dead_letter(records[item.row], item.problem, stage=STAGE) for item in rejected]
        published = [
            OutboxRecord(DECISIONS, self._partition, decision.transaction_id.encode(), value)
            for decision, value in zip(decided, encoded, strict=True)
        ]
        position = str(records[-1].offset + 1)
        with timed(counts, "commit"):
            committed = await self._input.commit(position, published + letters, changes)
        if not committed:
            counts.commits_refused += 1
            await self._start_over()
            return True
        counts.events += len(records)
        counts.late += late
        counts.duplicates += len(batch) - len(decisions)
        self._count(decisions, rejected)
        return True

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed."""
        return None if self._input.position is None else int(self._input.position)

    def _accepted(
        self,
        records: Sequence[InputRecord],
        batch: Transactions,
        rows: list[int],
        rejected: list[Rejected],
    ) -> tuple[Transactions, list[int], list[Rejected]]:
        """Reject what is in the wrong partition, or of a time that cannot be."""
        problems: list[tuple[int, Problem]] = []
        times = batch.event_time_ms.tolist()
        for place, (row, key, time_ms) in enumerate(zip(rows, batch.keys[0], times, strict=True)):
            problem = self._untimely(time_ms, records[row].timestamp_ms) or self._misplaced(key)
            if problem is not None:
                problems.append((place, problem))
        if not problems:
            return batch, rows, rejected
        refused = [Rejected(rows[place], problem) for place, problem in problems]
        kept = np.delete(np.arange(len(batch)), [place for place, _ in problems])
        return batch.take(kept), [rows[place] for place in kept], [*rejected, *refused]

    def _misplaced(self, key: str) -> Problem | None:
        """A card's history and labels are in the partition of its key, and nowhere else."""
        place = self._place(key)
        if place == self._partition:
            return None
        field = f"$.{self._parts.schema.partition_key}"
        return Problem("wrong_partition", field, f"partition {place}", f"{self._partition}")

    def _untimely(self, time_ms: int, appended_ms: int | None) -> Problem | None:
        """One event of the far future would age every profile and label of its partition."""
        if appended_ms is None:
            return None
        settings, field = self._parts.settings, f"$.{self._parts.schema.event_time}"
        ahead_ms = time_ms - appended_ms
        if ahead_ms > settings.event_ahead_seconds_max * 1000:
            limit = f"at most {settings.event_ahead_seconds_max:.0f} s after its arrival in Kafka"
            return Problem("out_of_time", field, limit, f"{ahead_ms / 1000:.0f} s after it")
        days = -ahead_ms / DAY_MS
        if 0 < settings.event_age_days_max < days:
            limit = f"at most {settings.event_age_days_max:g} days before its arrival in Kafka"
            return Problem("out_of_time", field, limit, f"{days:.1f} days before it")
        return None

    def _changes(
        self, decisions: Decisions, decided: list[DecisionRecord], encoded: list[bytes]
    ) -> list[Change]:
        if not decided:
            return []
        p = self._partition
        newest_ms = int(decisions.transactions.event_time_ms.max())
        self._watermark_ms = max(self._watermark_ms, newest_ms)
        waiting: list[str | bytes] = []
        for decision, value in zip(decided, encoded, strict=True):
            waiting += (decision.transaction_id, value)
        alerts: list[str] = []
        for decision in decided:
            if decision.action == ACTIONS[REVIEW]:
                alerts += (repr(decision.score), decision.transaction_id)
        changes: list[Change] = [
            *self._profiles.changes(decisions.transactions),
            ("HSET", f"w:{p}", *waiting),
            ("RPUSH", f"wl:{p}", *waiting[::2]),
            ("LIMIT", str(p), self._parts.settings.feedback_limit),
            ("SET", f"wm:{p}", self._watermark_ms),
            ("SET", f"model:{p}", decisions.model_version),
        ]
        return changes + ([("ZADD", f"review:{p}", *alerts)] if alerts else [])

    def _count(self, decisions: Decisions, rejected: Sequence[Rejected]) -> None:
        counts = self._parts.counts
        counts.commits += 1
        for action in decisions.actions.tolist():
            counts.decisions[ACTIONS[action]] += 1
        for item in rejected:
            counts.rejected[item.problem.reason] += 1
        counts.watermark_ms[self._partition] = self._watermark_ms
        offset = self._parts.feed.in_force[0].offset
        counts.model_adoptions += offset != counts.model_offset
        counts.model_offset = offset


def _place_among(partitions: int) -> Callable[[str], int]:
    return lambda key: partition_of(key.encode(), partitions)
