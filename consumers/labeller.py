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
of its own: it is a second reader of that log, so many days of event time behind.
"""

from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from consumers.dead_letters import InputRecord, dead_letter
from consumers.decision_reader import DecisionReader
from consumers.lane import Part
from consumers.redis_store import as_bytes
from consumers.scorer import Parts
from consumers.waiting_store import load_entries, verdict_change
from pipeline.admission import Admission
from pipeline.commit import Change, Input, OutboxRecord
from pipeline.counts import WorkerCounts
from pipeline.durations import DAY_MS
from pipeline.errors import Reason
from pipeline.events import Label, LabelDecoder, Problem, Source, Verdict
from pipeline.feedback import Settled, join, matured_label, went_through
from pipeline.records import VERDICTS, DecisionRecord, decode_decisions, encode_record
from pipeline.topics import FEEDBACK, TRAINING, TRANSACTIONS
from pipeline.verdicts import KnownVerdict, LabelPath
from pipeline.waiting_index import IndexEntry

# Labels that wait for their decision; beyond it no more are read until some have found it.
PENDING_MAX = 10_000
# Decisions looked at in one step of maturing.
MATURING_MAX = 1_000
# What the ledger counts beside the paths: the system's own labels, and labels that could not be
# read. Labels read = the paths - matured + rejected + those that wait.
MATURED, REJECTED = "matured", "rejected"


class LoadedWaiting:
    """What is known of the decisions that a step needs, and the verdicts it adds."""

    def __init__(self) -> None:
        self.entries: dict[str, IndexEntry] = {}
        self.decisions: dict[str, DecisionRecord] = {}
        self.changed: dict[str, KnownVerdict] = {}

    def knows(self, transaction_id: str) -> bool:
        """Say whether the decision is there."""
        return transaction_id in self.entries

    def decision(self, transaction_id: str) -> DecisionRecord:
        """Give a decision that was read back."""
        return self.decisions[transaction_id]

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""
        return self.changed.get(transaction_id) or self.entries[transaction_id].verdict

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""
        self.changed[transaction_id] = verdict


class Pending(msgspec.Struct, frozen=True):
    """A label that waits for its decision, with its record."""

    offset: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]] = []


PendingKey = tuple[str, str]
Waits = tuple[Label, InputRecord]


def key_of(label: Label) -> PendingKey:
    """Tell a label that waits from every other: one id may be used for two transactions."""
    return label.transaction_id, label.label_id


class _Step:
    """One step as it is put together: what it publishes, changes and counts."""

    def __init__(self, partition: int, seq: int, matured: int) -> None:
        self._partition = partition
        self._began_at = matured
        self.seq, self.matured = seq, matured
        self.waiting = LoadedWaiting()
        self.records: list[OutboxRecord] = []
        self.changes: list[Change] = []
        self.pending: dict[PendingKey, Waits] = {}
        self.done: list[PendingKey] = []
        self._ledger: Counter[str] = Counter()
        self._paths: Counter[LabelPath] = Counter()
        self._labels: Counter[tuple[Source, Verdict]] = Counter()
        self._rejected: Counter[Reason] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.records or self.changes or self.done or self.matured != self._began_at)

    def join(self, label: Label) -> LabelPath:
        """Take a label: if it is to be learned, publish its example."""
        [item] = join(self.waiting, [label], training_seq=self.seq)
        if item.path != "unknown":
            self._settle(item)
        return item.path

    def _settle(self, item: Settled) -> None:
        label = item.label
        self._paths[item.path] += 1
        self._labels[label.source, VERDICTS[not label.is_fraud]] += 1
        if item.decision is None:
            return
        example = item.example(partition=self._partition)
        self.records.append(OutboxRecord(TRAINING, 0, None, encode_record(example)))
        self.seq += 1
        self._ledger[f"verdict_{example.verdict}"] += 1
        if item.replaced is not None:
            self._ledger[f"verdict_{VERDICTS[not item.replaced.is_fraud]}"] -= 1

    def mature(self, label: Label, entry: IndexEntry, decision: DecisionRecord) -> None:
        """Take the system's own label of a decision that nobody spoke of."""
        key = label.transaction_id
        self.waiting.entries[key], self.waiting.decisions[key] = entry, decision
        self._ledger[MATURED] += 1
        self.join(label)

    def repeat(self) -> None:
        """Take a label that waits already."""
        self._paths["repeated"] += 1

    def wait(self, label: Label, record: InputRecord) -> None:
        """Let a label wait for its decision."""
        self.pending[key_of(label)] = (label, record)
        headers = list(record.headers)
        pending = Pending(record.offset, record.key, record.value or b"", headers)
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
        else:
            self._ledger[REJECTED] += 1
        self.records.append(dead_letter(record, problem, stage="label"))

    def all_changes(self) -> list[Change]:
        """Give what the commit stores: verdicts, waiting labels, and the ledger."""
        p = self._partition
        verdicts = [verdict_change(p, *item) for item in self.waiting.changed.items()]
        ledger: list[Change] = [
            ("HINCRBY", f"ledger:{p}", name, count)
            for name, count in (*self._paths.items(), *self._ledger.items())
            if count
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


class Labeller(Part):
    """Joins the labels of one partition, in order, each at most once."""

    def __init__(self, parts: Parts, partition: int) -> None:
        self._parts, self._partition = parts, partition
        self._verifier = parts.label_verifier
        self._decoder = LabelDecoder(parts.schema)
        self._admission = Admission(parts.schema, parts.settings, partition)
        name = f"{FEEDBACK}:{partition}"
        self._input = Input(parts.store, parts.publish, name=name, owner=parts.owner)
        # In the order of their log, which is the order they are joined in.
        self._pending: dict[PendingKey, Waits] = {}
        self._offset, self._seq, self._steps, self._matured = 0, 0, 0, 0
        self._seen: tuple[object, int] | None = None
        self._labelled = DecisionReader(parts.kafka_servers, partition)
        self._maturing = DecisionReader(parts.kafka_servers, partition)
        # Read for maturity, and still too young.
        self._ahead: deque[tuple[int, DecisionRecord]] = deque()

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
            record = InputRecord(
                FEEDBACK, self._partition, item.offset, item.key, item.value, headers=item.headers
            )
            label = self._decoder.decode_one(record.value)
            assert isinstance(label, Label), "only decoded labels were stored"
            self._pending[key_of(label)] = (label, record)
        self._seen = None
        self._ahead.clear()
        position = self._input.position or "0:0:0:0"
        self._offset, self._seq, self._steps, self._matured = map(int, position.split(":"))

    async def end(self) -> None:
        """Disconnect: the partition has gone to another, or the process ends."""
        await self._labelled.stop()
        await self._maturing.stop()

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
        step = self._step()
        self._verifier.refresh()
        checked = [(record, self._checked(record)) for record in records]
        labels = [label for _, label in checked if isinstance(label, Label)]
        ids = {label.transaction_id for label in labels}
        pending = [label for label, _ in self._pending.values() if label.transaction_id in ids]
        await self._load(step.waiting, [*pending, *labels])
        checked = self._fitting(step, checked)
        if not checked:
            return False
        self._join_pending(step, pending)
        self._join(step, checked)
        await self._commit(step, checked[-1][0].offset + 1)
        return True

    async def tick(self) -> None:
        """Do what time has made due: pending labels, and decisions that have matured."""
        p = self._partition
        position, stored, indexed = await self._parts.store.redis.mget(
            f"pos:{TRANSACTIONS}:{p}", f"wm:{p}", f"wi:{p}"
        )
        step = self._step()
        seen = (position, len(self._pending))
        if self._pending and seen != self._seen:
            pending = [label for label, _ in self._pending.values()]
            await self._load(step.waiting, pending)
            self._join_pending(step, pending)
            self._expire(step, int(indexed or 0))
        await self._mature(step, int(stored or 0))
        if not step.is_empty:
            await self._commit(step, self._offset)
        self._seen = seen

    def _step(self) -> _Step:
        return _Step(self._partition, self._seq, self._matured)

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
            or self._admission.misplaced(label.key)
            or label
        )

    def _fitting(
        self, step: _Step, checked: list[tuple[InputRecord, Label | Problem]]
    ) -> list[tuple[InputRecord, Label | Problem]]:
        """Give the first of the records, up to the label that there is no room for."""
        room = PENDING_MAX - len(self._pending)
        for count, (_, label) in enumerate(checked):
            if isinstance(label, Label) and not step.waiting.knows(label.transaction_id):
                room -= key_of(label) not in self._pending
                if room < 0:
                    return checked[:count]
        return checked

    def _join(self, step: _Step, checked: list[tuple[InputRecord, Label | Problem]]) -> None:
        """Join labels in the order of their log; those without a decision wait for it."""
        for record, label in checked:
            if isinstance(label, Problem):
                step.reject(record, label)
            elif step.join(label) == "unknown":
                if key_of(label) in self._pending or key_of(label) in step.pending:
                    step.repeat()
                else:
                    step.wait(label, record)

    def _join_pending(self, step: _Step, pending: Sequence[Label]) -> None:
        """Join what waits, before anything that came later."""
        for label in pending:
            if step.join(label) != "unknown":
                step.stop_waiting(label)

    def _expire(self, step: _Step, watermark_ms: int) -> None:
        patience_ms = self._parts.settings.pending_label_seconds * 1000
        for label, record in self._pending.values():
            is_late = label.label_time_ms + patience_ms < watermark_ms
            if is_late and key_of(label) not in step.done:
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

    async def _mature(self, step: _Step, watermark_ms: int) -> None:
        """Take the decisions, in the order of their log, that are old enough."""
        maturity_ms = int(self._parts.settings.maturity_days * DAY_MS)
        if not self._ahead:
            values = await self._maturing.read_on(self._matured, MATURING_MAX)
            decisions = decode_decisions(value for _, value in values)
            for (offset, _), decision in zip(values, decisions, strict=True):
                assert decision is not None, f"offset {offset} holds no decision"
                self._ahead.append((offset, decision))
        old = [
            (offset, decision)
            for offset, decision in self._ahead
            if decision.event_time <= watermark_ms - maturity_ms
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
            self._mature_one(step, decision, entries.get(decision.transaction_id), maturity_ms)

    def _mature_one(
        self, step: _Step, decision: DecisionRecord, entry: IndexEntry | None, maturity_ms: int
    ) -> None:
        """Learn a decision as genuine if silence proves it; one that left the index is too old."""
        key = decision.transaction_id
        is_silent = entry is not None and entry.verdict is None and key not in step.waiting.changed
        if entry is not None and is_silent and went_through(decision.action, entry.outcome):
            step.mature(matured_label(decision, maturity_ms), entry, decision)

    async def _commit(self, step: _Step, offset: int) -> None:
        """Take a step; refused, stand where the store stands."""
        position = f"{offset}:{step.seq}:{self._steps + 1}:{step.matured}"
        if not await self._input.commit(position, step.records, step.all_changes()):
            self._parts.counts.commits_refused += 1
            await self._start_over()
            return
        self._offset, self._seq, self._matured = offset, step.seq, step.matured
        self._steps += 1
        self._pending |= step.pending
        for key in step.done:
            self._pending.pop(key, None)
        step.count_into(self._parts.counts)


def _own_word(label: Label) -> Problem | None:
    """Refuse a label that says what only the labeller itself may say."""
    if label.source != "matured":
        return None
    return Problem("schema", "$.source", "a source that speaks on feedback", label.source)


def _unknown(field: str) -> Problem:
    return Problem("unknown_transaction", f"$.{field}", "a decided transaction", "an unknown one")
