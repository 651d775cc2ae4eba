"""One step of a labeller as it is put together: what it publishes, changes and counts.

Nothing happens before the labeller commits it (`labeller.py`).
"""

from collections import Counter

import msgspec

from consumers.dead_letters import (
    Headers,
    InputRecord,
    dead_letter,
)
from consumers.lost_window import LearnedBefore
from consumers.waiting_store import verdict_changes
from pipeline.commit import Change, OutboxRecord
from pipeline.counts import WorkerCounts
from pipeline.errors import Reason
from pipeline.events import Label, Problem
from pipeline.feedback import Settled, join, matured_label
from pipeline.label_words import Source, Verdict
from pipeline.records import VERDICTS, DecisionRecord, encode_record
from pipeline.schema import Schema
from pipeline.stored_rows import sealed
from pipeline.topics import FEEDBACK, TRAINING
from pipeline.verdicts import KnownVerdict, LabelPath
from pipeline.waiting_index import IndexEntry

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
    timestamp_ms: int | None = None
    headers: Headers = ()


PendingKey = tuple[str, str]
Waits = tuple[Label, InputRecord]


def key_of(label: Label) -> PendingKey:
    """Tell a label that waits from every other: one id may be used for two transactions."""
    return label.transaction_id, label.label_id


class LabelStep:
    """One step as it is put together: what it publishes, changes and counts."""

    def __init__(
        self,
        schema: Schema,
        partition: int,
        seq: int,
        matured: int,
        before: LearnedBefore,
        maturity_ms: int,
    ) -> None:
        self._schema, self._partition = schema, partition
        self._before, self._maturity_ms = before, maturity_ms
        self._began_at = matured
        self.seq, self.matured = seq, matured
        self.waiting = LoadedWaiting()
        self.records: list[OutboxRecord] = []
        self.changes: list[Change] = []
        self.pending: dict[PendingKey, Waits] = {}
        self.done: list[PendingKey] = []
        self.again: list[PendingKey] = []
        self.redriven = 0
        self._ledger: Counter[str] = Counter()
        self._paths: Counter[LabelPath] = Counter()
        self._labels: Counter[tuple[Source, Verdict]] = Counter()
        self._rejected: Counter[Reason] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.records or self.changes or self.done or self.matured != self._began_at)

    def join(self, label: Label) -> LabelPath:
        """Take a label: if it is to be learned, publish its example where that was not done."""
        number = None
        if self._before:
            number = self._before.number(*key_of(label))
            if self._before.knows(label.transaction_id):
                self._mature_again(label, number)
        [item] = join(self.waiting, [label], training_seq=self.seq if number is None else number)
        if item.path != "unknown":
            self._settle(item)
        return item.path

    def _mature_again(self, label: Label, number: int | None) -> None:
        """Let a decision be mature that was, in what the store has forgotten, before this label."""
        key, waiting = label.transaction_id, self.waiting
        if label.source == "matured" or not waiting.knows(key) or waiting.verdict(key) is not None:
            return
        decision = waiting.decision(key)
        matured = matured_label(decision, self._maturity_ms)
        before = self._before.number(*key_of(matured))
        if before is not None and (number is None or before < number):
            self.mature(matured, waiting.entries[key], decision)

    def _settle(self, item: Settled) -> None:
        label = item.label
        self._paths[item.path] += 1
        self._labels[label.source, VERDICTS[not label.is_fraud]] += 1
        if item.decision is None:
            return
        example = item.example(partition=self._partition)
        if item.training_seq == self.seq:
            self.records.append(OutboxRecord(TRAINING, 0, None, encode_record(example)))
            self.seq += 1
        else:
            self.again.append(key_of(label))
            self.changes += self._before.taken(*key_of(label))
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
        pending = Pending(
            record.offset, record.key, record.value or b"", record.timestamp_ms, record.headers
        )
        stored = msgspec.msgpack.encode(pending)
        field = "/".join(key_of(label))
        place = f"pend:{self._partition}"
        self.changes.append(("HSET", place, field, sealed(f"{place} {field}", stored)))

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
        self.records.append(dead_letter(record, problem, stage="label", schema=self._schema))

    def all_changes(self) -> list[Change]:
        """Give what the commit stores: verdicts, waiting labels, and the ledger."""
        p = self._partition
        verdicts = verdict_changes(p, self.waiting.changed)
        ledger: list[Change] = [
            ("HINCRBY", f"ledger:{p}", name, count)
            for name, count in (*self._paths.items(), *self._ledger.items())
            if count
        ]
        return verdicts + self.changes + ledger

    def count_into(self, counts: WorkerCounts) -> None:
        """Add what was done to the worker's counts."""
        counts.commits += 1
        counts.redriven[FEEDBACK] += self.redriven
        for path, number in self._paths.items():
            counts.label_paths[path] += number
        for kind, number in self._labels.items():
            counts.labels[kind] += number
        for reason, number in self._rejected.items():
            counts.rejected[reason] += number
