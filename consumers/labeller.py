"""The labeller of one partition of `feedback`: decode, join, commit, publish to `training`.

Its position is `offset:seq:step`: the next offset of `feedback`, the next number of what it emits,
and the number of steps, which every step advances, so that each is fenced: those too that read no
label (labels that waited for their decision, decisions that matured). Time is the scorer's
watermark of the same partition, so it is event time.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from consumers.dead_letters import InputRecord, dead_letter
from consumers.redis_store import as_bytes
from consumers.scorer import Parts
from pipeline.commit import Change, Input, OutboxRecord
from pipeline.counts import WorkerCounts
from pipeline.durations import DAY_MS
from pipeline.errors import Reason
from pipeline.events import Label, LabelDecoder, Problem, Source, Verdict
from pipeline.feedback import KnownVerdict, LabelPath, Settled, join, matured_label
from pipeline.partitioner import partition_of
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.topics import FEEDBACK, TRAINING, TRANSACTIONS

# Labels that wait for their decision; beyond it no more are read until some have found it.
PENDING_MAX = 10_000
# Decisions looked at in one step of maturing.
MATURING_MAX = 1_000


class LoadedWaiting:
    """What Redis holds of the decisions that a step needs, and the verdicts it adds."""

    def __init__(self) -> None:
        self.decisions: dict[str, DecisionRecord] = {}
        self.verdicts: dict[str, KnownVerdict] = {}
        self.changed: dict[str, KnownVerdict] = {}

    def decision(self, transaction_id: str) -> DecisionRecord | None:
        """Give the decision, or `None` where none is kept."""
        return self.decisions.get(transaction_id)

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""
        return self.verdicts.get(transaction_id)

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""
        self.verdicts[transaction_id] = self.changed[transaction_id] = verdict


class Pending(msgspec.Struct, frozen=True):
    """A label that waits for its decision, with its record."""

    offset: int
    key: bytes | None
    value: bytes


PendingKey = tuple[str, str]
Waits = tuple[Label, InputRecord]


def key_of(label: Label) -> PendingKey:
    """Tell a label that waits from every other: one id may be used for two transactions."""
    return label.transaction_id, label.label_id


class _Step:
    """One step as it is put together: what it publishes, changes and counts."""

    def __init__(self, partition: int, seq: int) -> None:
        self._partition = partition
        self.seq = seq
        self.waiting = LoadedWaiting()
        self.records: list[OutboxRecord] = []
        self.changes: list[Change] = []
        self.pending: dict[PendingKey, Waits] = {}
        self.done: list[PendingKey] = []
        self._paths: Counter[LabelPath] = Counter()
        self._labels: Counter[tuple[Source, Verdict]] = Counter()
        self._rejected: Counter[Reason] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.records or self.changes or self.done)

    def settle(self, item: Settled) -> None:
        """Take a label whose decision is there; if it is to be learned, number it."""
        self._paths[item.path] += 1
        self._labels[item.label.source, "fraud" if item.label.is_fraud else "genuine"] += 1
        if item.decision is not None:
            example = item.example(partition=self._partition, training_seq=self.seq)
            self.records.append(OutboxRecord(TRAINING, 0, None, encode_record(example)))
            self.seq += 1

    def repeat(self) -> None:
        """Take a label that waits already."""
        self._paths["repeated"] += 1

    def wait(self, label: Label, record: InputRecord) -> None:
        """Let a label wait for its decision."""
        self.pending[key_of(label)] = (label, record)
        pending = Pending(record.offset, record.key, record.value or b"")
        stored = msgspec.msgpack.encode(pending)
        field = "/".join(key_of(label))
        self.changes.append(("HSET", f"pend:{self._partition}", field, stored))

    def stop_waiting(self, label: Label) -> None:
        """Let a label wait no longer."""
        self.done.append(key_of(label))
        self.changes.append(("HDEL", f"pend:{self._partition}", "/".join(key_of(label))))

    def reject(self, record: InputRecord, problem: Problem) -> None:
        """Make a dead letter of a label."""
        self._rejected[problem.reason] += 1
        if problem.reason == "unknown_transaction":
            self._paths["unknown"] += 1
        self.records.append(dead_letter(record, problem, stage="label"))

    def all_changes(self) -> list[Change]:
        """Give what the commit stores: verdicts, waiting labels, and the ledger."""
        p = self._partition
        verdicts: list[Change] = [
            ("VERDICT", str(p), key, msgspec.msgpack.encode(verdict))
            for key, verdict in self.waiting.changed.items()
        ]
        ledger: list[Change] = [
            ("HINCRBY", f"ledger:{p}", path, count) for path, count in self._paths.items()
        ]
        return verdicts + self.changes + ledger

    def count_into(self, counts: WorkerCounts) -> None:
        """Add what was done to the worker's counts."""
        counts.commits += 1
        for path, number in self._paths.items():
            counts.label_paths[path] += number
        for kind, number in self._labels.items():
            counts.labels[kind] += number
        for reason, number in self._rejected.items():
            counts.rejected[reason] += number


class Labeller:
    """Joins the labels of one partition, in order, each at most once."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._decoder = LabelDecoder(parts.schema)
        name = f"{FEEDBACK}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)
        # In the order of their log, which is the order they are joined in.
        self._pending: dict[PendingKey, Waits] = {}
        self._offset, self._seq, self._steps = 0, 0, 0
        self._seen: tuple[object, int] | None = None

    async def recover(self) -> int | None:
        """Take over from the last owner; gives the offset to read from, `None` at first."""
        await self._input.recover()
        await self._start_over()
        return self.position

    async def _start_over(self) -> None:
        """Forget what is cached, and stand where the store stands."""
        stored = await self._parts.store.redis.hgetall(f"pend:{self._partition}")
        pending = [msgspec.msgpack.decode(as_bytes(v), type=Pending) for v in stored.values()]
        self._pending = {}
        for item in sorted(pending, key=lambda item: item.offset):
            record = self._record(item.offset, item.key, item.value)
            label = self._decoder.decode_one(record.value)
            assert isinstance(label, Label), "only decoded labels were stored"
            self._pending[key_of(label)] = (label, record)
        self._seen = None
        position = self._input.position or "0:0:0"
        self._offset, self._seq, self._steps = (int(part) for part in position.split(":"))

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
        """Join the first of these labels; `False` if no room is left for one that must wait."""
        step = _Step(self._partition, self._seq)
        checked = [(record, self._checked(record)) for record in records]
        labels = [label for _, label in checked if isinstance(label, Label)]
        await self._load(step.waiting, [label.transaction_id for label in labels])
        checked = self._fitting(step, checked)
        if not checked:
            return False
        self._join_pending(step, {label.transaction_id for label in labels})
        self._join(step, checked)
        await self._commit(step, checked[-1][0].offset + 1)
        return True

    async def tick(self) -> None:
        """Do what time has made due: pending labels, and decisions that have matured."""
        p = self._partition
        position, watermark = await self._parts.store.redis.mget(
            f"pos:{TRANSACTIONS}:{p}", f"wm:{p}"
        )
        step = _Step(p, self._seq)
        seen = (position, len(self._pending))
        if self._pending and seen != self._seen:
            await self._load(step.waiting, [transaction_id for transaction_id, _ in self._pending])
            self._join_pending(step, {transaction_id for transaction_id, _ in self._pending})
            self._expire(step, int(watermark or 0))
        await self._mature(step, int(watermark or 0))
        if not step.is_empty:
            await self._commit(step, self._offset)
        self._seen = seen

    def _record(self, offset: int, key: bytes | None, value: bytes | None) -> InputRecord:
        return InputRecord(FEEDBACK, self._partition, offset, key, value)

    def _checked(self, record: InputRecord) -> Label | Problem:
        label = self._decoder.decode_one(record.value)
        if isinstance(label, Problem):
            return label
        place = partition_of(label.key.encode(), self._parts.settings.partitions)
        if place != self._partition:
            key = f"$.{self._parts.schema.partition_key}"
            return Problem("wrong_partition", key, f"partition {place}", f"{self._partition}")
        return label

    def _fitting(
        self, step: _Step, checked: list[tuple[InputRecord, Label | Problem]]
    ) -> list[tuple[InputRecord, Label | Problem]]:
        """Give the first of the records, up to the label that there is no room for."""
        room = PENDING_MAX - len(self._pending)
        for count, (_, label) in enumerate(checked):
            if isinstance(label, Label) and step.waiting.decision(label.transaction_id) is None:
                room -= key_of(label) not in self._pending
                if room < 0:
                    return checked[:count]
        return checked

    def _join(self, step: _Step, checked: list[tuple[InputRecord, Label | Problem]]) -> None:
        """Join labels in the order of their log; those without a decision wait for it."""
        for record, label in checked:
            if isinstance(label, Problem):
                step.reject(record, label)
                continue
            for item in join(step.waiting, [label]):
                if item.path != "unknown":
                    step.settle(item)
                elif key_of(label) in self._pending or key_of(label) in step.pending:
                    step.repeat()
                else:
                    step.wait(label, record)

    def _join_pending(self, step: _Step, transaction_ids: set[str]) -> None:
        """Join what waits for these transactions, before anything that came later."""
        for label, _ in list(self._pending.values()):
            if label.transaction_id in transaction_ids:
                for item in join(step.waiting, [label]):
                    if item.path != "unknown":
                        step.settle(item)
                        step.stop_waiting(label)

    def _expire(self, step: _Step, watermark_ms: int) -> None:
        patience_ms = self._parts.settings.pending_label_seconds * 1000
        for label, record in self._pending.values():
            is_late = label.label_time_ms + patience_ms < watermark_ms
            if is_late and key_of(label) not in step.done:
                step.reject(record, _unknown(self._parts.schema.event_id))
                step.stop_waiting(label)

    async def _load(self, waiting: LoadedWaiting, ids: Sequence[str]) -> None:
        wanted = [key for key in dict.fromkeys(ids) if key not in waiting.decisions]
        if not wanted:
            return
        p = self._partition
        pipeline = self._parts.store.redis.pipeline(transaction=True)
        pipeline.hmget(f"w:{p}", wanted)
        pipeline.hmget(f"v:{p}", wanted)
        values, verdicts = await pipeline.execute()
        for key, decision in zip(wanted, decode_decisions(values), strict=True):
            if decision is not None:
                waiting.decisions[key] = decision
        for key, verdict in zip(wanted, verdicts, strict=True):
            if verdict is not None:
                waiting.verdicts[key] = msgspec.msgpack.decode(verdict, type=KnownVerdict)

    async def _mature(self, step: _Step, watermark_ms: int) -> None:
        """Take the decisions, in their order, that are old enough; silence makes some genuine."""
        p = self._partition
        maturity_ms = int(self._parts.settings.maturity_days * DAY_MS)
        listed = await self._parts.store.redis.lrange(f"wl:{p}", 0, MATURING_MAX - 1)
        ids = [as_bytes(item).decode() for item in listed]
        await self._load(step.waiting, ids[:1])
        if not ids or not self._is_mature(step.waiting, ids[0], watermark_ms - maturity_ms):
            return
        await self._load(step.waiting, ids)
        for key in ids:
            if not self._is_mature(step.waiting, key, watermark_ms - maturity_ms):
                return
            step.changes.append(("MATURED", str(p), key))
            decision = step.waiting.decision(key)
            if decision is not None and step.waiting.verdict(key) is None:
                label = matured_label(decision, maturity_ms)
                for item in join(step.waiting, [label] if label else []):
                    step.settle(item)

    def _is_mature(self, waiting: LoadedWaiting, key: str, before_ms: int) -> bool:
        # An id that was decided twice leaves one entry behind when the limit takes its decision.
        decision = waiting.decision(key)
        return decision is None or decision.event_time <= before_ms

    async def _commit(self, step: _Step, offset: int) -> None:
        """Take a step; refused, stand where the store stands."""
        position = f"{offset}:{step.seq}:{self._steps + 1}"
        if not await self._input.commit(position, step.records, step.all_changes()):
            self._parts.counts.commits_refused += 1
            await self._start_over()
            return
        self._offset, self._seq, self._steps = offset, step.seq, self._steps + 1
        self._pending |= step.pending
        for key in step.done:
            self._pending.pop(key, None)
        step.count_into(self._parts.counts)


def _unknown(field: str) -> Problem:
    return Problem("unknown_transaction", f"$.{field}", "a decided transaction", "an unknown one")
