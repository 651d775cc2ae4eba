"""The labeller of one partition of `feedback`: check, decode, join, commit, publish to `training`.

A label's signature is checked before anything else is read of it (`pipeline/signing.py`), and once:
those that wait in the store were accepted already.

Its position is `offset:seq:step:matured`: the next offset of `feedback`, the next number of what it
emits, the number of steps, and the next offset of `decisions` to look at for maturity. Every step
advances the third, so that each is fenced: those too that read no label (labels that waited for
their decision, decisions that matured). Time is the scorer's watermark of the same partition, so it
is event time.

What waits for a label stands in the index (`waiting_store.py`); the decisions that labels have
something to say about are read back from their log (`decision_reader.py`). Maturity needs no index
of its own: it is a second reader of that log, so many days of event time behind. What a restored
Redis has forgotten of its own examples is found in theirs (`lost_window.py`).
"""

import logging
from collections import deque
from collections.abc import Sequence

import msgspec
from redis.asyncio import Redis

from consumers.dead_letters import (
    EventError,
    InputRecord,
    internal_error,
    redriven,
)
from consumers.decision_reader import DecisionReader
from consumers.label_step import LabelStep, LoadedWaiting, Pending, PendingKey, Waits, key_of
from consumers.lane import Part, own_code
from consumers.listening import Listening
from consumers.lost_window import NOTED_MAX, LearnedBefore, TrainingReader
from consumers.patience import Patience
from consumers.redis_client import as_bytes
from consumers.redis_store import stored_number
from consumers.scorer import Parts, is_indexed
from consumers.waiting_store import load_entries
from pipeline.admission import Admission
from pipeline.commit import Input
from pipeline.durations import DAY_MS
from pipeline.events import Label, LabelDecoder, Problem
from pipeline.feedback import matured_label, went_through
from pipeline.records import DecisionRecord, decode_decisions
from pipeline.stored_rows import unsealed
from pipeline.topics import FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.waiting_index import IndexEntry

logger = logging.getLogger(__name__)

# Labels that wait for their decision; beyond it no more are read until some have found it.
PENDING_MAX = 10_000
# Labels that overtake decisions are looked at by so many at least.
REACH_MIN = 64
# Decisions looked at in one step of maturing.
MATURING_MAX = 1_000


class Labeller(Part):
    """Joins the labels of one partition, in order, each at most once."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._verifier = parts.label_verifier
        self._decoder = LabelDecoder(parts.schema)
        self._admission = Admission(parts.schema, parts.settings, partition)
        name = f"{parts.prefix}{FEEDBACK}:{partition}"
        self._scorer_key = f"pos:{parts.prefix}{TRANSACTIONS}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)
        # In the order of their log, which is the order they are joined in.
        self._pending: dict[PendingKey, Waits] = {}
        # Where the scorer stood when each of them was looked up first.
        self._sought_at: dict[PendingKey, bytes] = {}
        self._offset, self._seq, self._steps, self._matured = 0, 0, 0, 0
        self._maturity_ms = int(parts.settings.maturity_days * DAY_MS)
        self._before = LearnedBefore(partition, {})
        # An end that the training log had before the commit that stores it.
        self._training_end = 0
        self._seen: tuple[object, int] | None = None
        self._labelled = DecisionReader(parts.kafka_servers, partition)
        self._maturing = DecisionReader(parts.kafka_servers, partition)
        self._training = TrainingReader(parts.kafka_servers)
        # History has no decisions but those that were made already.
        self._is_live = not parts.prefix
        self._patience = Patience()
        self._listening = Listening()
        # Where the log of labels ends, as far as is known.
        self.log_end: int | None = None
        # So many labels are looked at together, at most.
        self._reach = parts.settings.batch_events_max
        # The records handled last, of which some may come again.
        self._checked_before: dict[int, Label | Problem] = {}
        # Read for maturity, and still too young.
        self._ahead: deque[tuple[int, DecisionRecord]] = deque()

    async def recover(self) -> int | None:
        """Take over from the last owner; gives the offset to read from, `None` at first."""
        await self._input.recover()
        await self._start_over()
        return self.position

    async def _start_over(self) -> None:
        """Forget what is cached, and stand where the store stands."""
        await self._restore()
        while not await self._catch_up():
            self._parts.counts.commits_refused += 1
            await self._restore()

    async def _catch_up(self) -> bool:
        """Number on behind what is published; `False` if somebody else has moved on meanwhile.

        Only a store that is older than the log has anything to catch up with.
        """
        p = self._partition
        redis = self._parts.store.redis
        start = int(await redis.get(f"te:{p}") or 0)
        found, self._training_end = await self._training.beyond(start, partition=p, seq=self._seq)
        for first in range(0, len(found), NOTED_MAX):
            part = found[first : first + NOTED_MAX]
            seq, steps = part[-1].training_seq + 1, self._steps + 1
            position = f"{self._offset}:{seq}:{steps}:{self._matured}"
            if not await self._input.commit(position, [], self._before.noted(part)):
                return False
            self._seq, self._steps = seq, steps
        if found:
            logger.warning("the store is older than the log: partition=%d lost=%d", p, len(found))
        stored = await redis.hgetall(f"again:{p}")
        self._before = LearnedBefore(p, {as_bytes(k): as_bytes(v) for k, v in stored.items()})
        return True

    async def _restore(self) -> None:
        """Read what the store holds beside the position."""
        pending = await load_pending(self._parts.store.redis, self._partition)
        self._pending = {}
        for item in sorted(pending, key=lambda item: item.offset):
            record = InputRecord(
                self._parts.prefix + FEEDBACK, self._partition, item.offset, item.key, item.value,
                timestamp_ms=item.timestamp_ms, headers=item.headers,
            )  # fmt: skip
            label = self._decoder.decode_one(record.value)
            assert isinstance(label, Label), "only decoded labels were stored"
            self._pending[key_of(label)] = (label, record)
        self._seen = None
        self._sought_at.clear()
        self._ahead.clear()
        position = self._input.position or "0:0:0:0"
        self._offset, self._seq, self._steps, self._matured = map(int, position.split(":"))

    async def end(self) -> None:
        """Disconnect: the partition has gone to another, or the process ends."""
        await self._labelled.stop()
        await self._maturing.stop()
        await self._training.stop()

    def begin(self, offset: int) -> None:
        """Take note of the first offset of the log, where the store knows none."""
        if self._input.position is None:
            self._offset = offset

    @property
    def position(self) -> int | None:
        """The offset of the next record, as committed."""
        return None if self._input.position is None else self._offset

    @property
    def pending(self) -> int:
        """Labels that wait for their decision."""
        return len(self._pending)

    async def handle(self, records: Sequence[InputRecord]) -> bool:
        """Join the first of these labels; `False` if the first of them must wait in its log."""
        stored = await self._parts.store.redis.get(f"wi:{self._partition}")
        indexed_ms = stored_number(f"wi:{self._partition}", stored)
        if self._patience.has_waited_for_nothing(records[0].offset, indexed_ms):
            return False
        self._patience.see(indexed_ms)
        step = self._step()
        checked = self._all_checked(records[: self._reach])
        labels = [label for _, label in checked if isinstance(label, Label)]
        pending = self._pending_like(labels)
        await self._load(step.waiting, [*pending, *labels])
        looked_at = len(checked)
        checked = self._fitting(step, checked)
        # Where labels overtake decisions, most of a batch would be looked up in vain each time.
        is_cut = self._is_live and len(checked) < looked_at
        twice = max(REACH_MIN, 2 * len(checked if is_cut else records[: self._reach]))
        self._reach = min(twice, self._parts.settings.batch_events_max)
        if not checked:
            return False
        self._join_pending(step, pending)
        with own_code():
            self._join(step, checked)
        step.redriven = redriven([record for record, _ in checked])
        await self._commit(step, checked[-1][0].offset + 1)
        return True

    def _all_checked(
        self, records: Sequence[InputRecord]
    ) -> list[tuple[InputRecord, Label | Problem]]:
        """Check records, those that had to wait in their log not again."""
        before = self._checked_before
        self._verifier.refresh()
        with own_code():
            checked = [
                (record, before.get(record.offset) or self._checked(record)) for record in records
            ]
        self._checked_before = {record.offset: item for record, item in checked}
        return checked

    def _pending_like(self, labels: Sequence[Label]) -> list[Label]:
        """Give the labels that wait for a decision that one of these speaks of."""
        if not self._pending:
            return []
        ids = {label.transaction_id for label in labels}
        return [label for label, _ in self._pending.values() if label.transaction_id in ids]

    async def failed(self, records: Sequence[InputRecord], error: EventError) -> None:
        """Make a dead letter of a single label that our own code failed on."""
        if len(records) == 1:
            step = self._step()
            step.reject(records[0], internal_error(error.cause))
            await self._commit(step, records[0].offset + 1)

    async def tick(self) -> None:
        """Do what time has made due: pending labels, and decisions that have matured."""
        if not await self._input.is_current():
            await self._refused()
            return
        p = self._partition
        position, stored, indexed = await self._parts.store.redis.mget(
            self._scorer_key, f"wm:{p}", f"wi:{p}"
        )
        step = self._step()
        seen = (as_bytes(position), len(self._pending))
        if self._pending and seen != self._seen:
            pending = [label for label, _ in self._pending.values()]
            await self._load(step.waiting, pending)
            self._join_pending(step, pending)
            self._expire(step, stored_number(f"wi:{p}", indexed), as_bytes(position))
        watermark_ms = stored_number(f"wm:{p}", stored)
        if self._is_live:
            end, offset = self.log_end, self._offset
            watermark_ms = self._listening.heard(watermark_ms, end=end, offset=offset)
        await self._mature(step, watermark_ms)
        if not step.is_empty:
            await self._commit(step, self._offset)
        self._seen = seen

    def _step(self) -> LabelStep:
        return LabelStep(
            self._parts.schema,
            self._partition,
            self._seq,
            self._matured,
            self._before,
            self._maturity_ms,
        )

    def _checked(self, record: InputRecord) -> Label | Problem:
        problem = self._verifier.problem(record.headers, record.key, record.value)
        if problem is not None:
            return problem
        label = self._decoder.decode_one(record.value)
        if isinstance(label, Problem):
            return label
        return (
            self._verifier.source_problem(record.headers, label)
            or _own_word(label)
            or self._admission.refused(label.key, record.key)
            or label
        )

    def _fitting(
        self, step: LabelStep, checked: list[tuple[InputRecord, Label | Problem]]
    ) -> list[tuple[InputRecord, Label | Problem]]:
        """Give the first of the records, up to the label that must wait in its log.

        There is no room for it elsewhere, or its decision may come soon.
        """
        room = PENDING_MAX - len(self._pending)
        for count, (record, label) in enumerate(checked):
            if isinstance(label, Problem) or step.waiting.knows(label.transaction_id):
                continue
            if key_of(label) in self._pending:
                continue
            room -= 1
            is_early = self._is_live and self._patience.holds(record.offset, label.label_time_ms)
            if room < 0 or is_early:
                return checked[:count]
        return checked

    def _join(self, step: LabelStep, checked: list[tuple[InputRecord, Label | Problem]]) -> None:
        """Join labels in the order of their log; those without a decision wait for it."""
        for record, label in checked:
            if isinstance(label, Problem):
                step.reject(record, label)
            elif step.join(label) == "unknown":
                if key_of(label) in self._pending or key_of(label) in step.pending:
                    step.repeat()
                else:
                    step.wait(label, record)

    def _join_pending(self, step: LabelStep, pending: Sequence[Label]) -> None:
        """Join what waits, before anything that came later."""
        for label in pending:
            if step.join(label) != "unknown":
                step.stop_waiting(label)

    def _expire(self, step: LabelStep, watermark_ms: int, position: bytes) -> None:
        patience_ms = self._parts.settings.pending_label_seconds * 1000
        for key, (label, record) in self._pending.items():
            # The index lies one commit behind: what was decided before the label came may be in it
            # only once the scorer has moved on.
            sought_at = self._sought_at.setdefault(key, position)
            is_sought = position != sought_at or is_indexed(position)
            is_late = label.label_time_ms + patience_ms < watermark_ms
            if is_late and is_sought and key not in step.done:
                step.reject(record, _unknown(self._parts.schema.event_id))
                step.stop_waiting(label)

    async def _load(self, waiting: LoadedWaiting, labels: Sequence[Label]) -> None:
        """Fetch what is known of the labels' decisions, and those that there is news about."""
        ids = [label.transaction_id for label in labels]
        entries, _ = await load_entries(self._parts.store, self._partition, ids)
        waiting.entries = {key: entry for key, entry in entries.items() if entry.is_decided}
        offsets = {
            label.transaction_id: entry.offset
            for label in labels
            if (entry := waiting.entries.get(label.transaction_id))
            and (entry.verdict is None or entry.verdict.is_fraud != label.is_fraud)
        }
        values = await self._labelled.read(offsets.values())
        found = decode_decisions([values.get(offset) for offset in offsets.values()])
        for key, decision in zip(offsets, found, strict=True):
            if decision is not None and decision.transaction_id == key:
                waiting.decisions[key] = decision
            else:
                # The log is shorter than the index, or another id has the same hash.
                del waiting.entries[key]

    async def _mature(self, step: LabelStep, heard_ms: int) -> None:
        """Take the decisions, in the order of their log, that are old enough."""
        if not self._ahead:
            values = await self._maturing.read_on(self._matured, MATURING_MAX)
            decisions = decode_decisions(value for _, value in values)
            for (offset, _), decision in zip(values, decisions, strict=True):
                assert decision is not None, f"offset {offset} holds no decision"
                self._ahead.append((offset, decision))
        old = [
            (offset, decision)
            for offset, decision in self._ahead
            if decision.event_time <= heard_ms - self._maturity_ms
        ]
        if not old:
            return
        ids = [decision.transaction_id for _, decision in old]
        entries, newest = await load_entries(self._parts.store, self._partition, ids)
        for offset, decision in old:
            if offset != self._ahead[0][0] or offset > newest:
                return
            self._ahead.popleft()
            step.matured = offset + 1
            self._mature_one(step, decision, entries.get(decision.transaction_id))

    def _mature_one(
        self, step: LabelStep, decision: DecisionRecord, entry: IndexEntry | None
    ) -> None:
        """Learn a decision as genuine if silence proves it; one that left the index is too old."""
        key, label = decision.transaction_id, matured_label(decision, self._maturity_ms)
        is_silent = entry is not None and entry.verdict is None and key not in step.waiting.changed
        if entry is None or not is_silent:
            return
        if self._before.knows(key):
            # What was learned of it is known already, and comes again if it was something else.
            proves = self._before.number(*key_of(label)) is not None
        else:
            incumbent = decision.incumbent.action if decision.incumbent else None
            proves = went_through(decision.taken, entry.outcome, incumbent)
        if proves:
            step.mature(label, entry, decision)

    async def _refused(self) -> None:
        self._parts.counts.commits_refused += 1
        await self._start_over()

    async def _commit(self, step: LabelStep, offset: int) -> None:
        """Take a step; refused, stand where the store stands."""
        position = f"{offset}:{step.seq}:{self._steps + 1}:{step.matured}"
        landed = [offset + 1 for record, offset in self._input.landed if record.topic == TRAINING]
        self._training_end = max(self._training_end, *landed, 0)
        changes = [*step.all_changes(), ("SET", f"te:{self._partition}", self._training_end)]
        if not await self._input.commit(position, step.records, changes):
            await self._refused()
            return
        self._offset, self._seq, self._matured = offset, step.seq, step.matured
        self._steps += 1
        self._pending |= step.pending
        for key in step.done:
            self._pending.pop(key, None)
            self._sought_at.pop(key, None)
        for key in step.again:
            self._before.forget(*key)
        step.count_into(self._parts.counts)


async def load_pending(redis: Redis, partition: int) -> list[Pending]:
    """Give the labels that wait, in no order."""
    place = f"pend:{partition}"
    return [
        msgspec.msgpack.decode(
            unsealed(f"{place} {as_bytes(field).decode()}", as_bytes(stored)), type=Pending
        )
        for field, stored in (await redis.hgetall(place)).items()
    ]


def _own_word(label: Label) -> Problem | None:
    """Refuse a label that says what only the labeller itself may say."""
    if label.source != "matured":
        return None
    return Problem("schema", "$.source", "a source that speaks on feedback", label.source)


def _unknown(field: str) -> Problem:
    return Problem("unknown_transaction", f"$.{field}", "a decided transaction", "an unknown one")
