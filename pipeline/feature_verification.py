"""The features of every decision again, from the transactions' own log; for one partition.

The log is folded through the same kernels and profiles as the worker's: what labels teach is folded
from the training log to the offset that each decision stamps (`label_offset`). With more than one
partition the rows of shared entities depend on which partition was faster, and nobody can know it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from pipeline.admission import Admission
from pipeline.events import Transactions
from pipeline.features import FeatureKernel
from pipeline.learner import Learner
from pipeline.memory_ids import MemoryIds
from pipeline.profiles import MemoryProfiles
from pipeline.recomputation import Recorded
from pipeline.records import DecisionRecord, decode_decisions, unpack_features
from pipeline.schema import Schema
from pipeline.settings import Settings
from pipeline.topics import TRANSACTIONS
from pipeline.transactions import TransactionDecoder
from pipeline.verification import (
    FINDINGS_MAX,
    Finding,
)
from pipeline.version_fold import TrainingCursor, TrainingLog

PARTITION = 0


@dataclass(slots=True)
class FeaturesVerified:
    """What was found of the features; a decision is equal, different, or not recomputed."""

    finished: bool = True
    transactions: int = 0
    rejected: int = 0
    duplicates: int = 0
    equal: int = 0
    different: int = 0
    missing: int = 0
    unexpected: int = 0
    not_recomputed: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether every transaction has its decision, and all features are the same."""
        wrong = self.different + self.missing + self.unexpected + self.not_recomputed.total()
        return self.finished and not wrong

    def find(
        self, transaction_id: str, offset: int, what: str, pair: tuple[object, object]
    ) -> None:
        """Keep a finding to be shown, if it is among the first."""
        if len(self.findings) < FINDINGS_MAX:
            place = f"{TRANSACTIONS}[{PARTITION}] offset {offset}"
            self.findings.append(Finding(transaction_id, place, what, *pair))


class _Decided:
    """The first decision of each transaction, looked up in the order of the transactions' log."""

    def __init__(self, chunks: Iterable[Sequence[Recorded]]) -> None:
        self._decisions = self._first(chunks)
        self._next: DecisionRecord | None = next(self._decisions, None)

    @property
    def is_over(self) -> bool:
        """Whether no decision is left."""
        return self._next is None

    def until(self, offset: int) -> Iterator[DecisionRecord]:
        """Give the decisions of transactions before an offset that were not given yet."""
        while self._next is not None and self._next.source[2] < offset:
            yield self._next
            self._next = next(self._decisions, None)

    def _first(self, chunks: Iterable[Sequence[Recorded]]) -> Iterator[DecisionRecord]:
        reached = -1
        for chunk in chunks:
            for decision in decode_decisions(record.value for record in chunk):
                # What was published again lies behind; whether its bytes are the same again, and
                # whether each record is a decision, is for `Verification` to say.
                if decision is not None and decision.source[2] > reached:
                    reached = decision.source[2]
                    yield decision


class FeatureVerification:
    """One pass over the only partition of `transactions` and its decisions."""

    def __init__(self, schema: Schema, settings: Settings, log: TrainingLog, *, end: int) -> None:
        self._kernel = FeatureKernel(schema)
        self._names = tuple(item.name for item in schema.keyed)
        self._decoder = TransactionDecoder(schema)
        self._admission = Admission(schema, settings, PARTITION)
        self._ids = MemoryIds(settings)
        self._learner = Learner(schema, self._kernel.schema_hash, ())
        self._profiles = MemoryProfiles(schema, self._learner.profiles)
        self._cursor, self._end = TrainingCursor(log), end
        self.result = FeaturesVerified()

    def run(
        self,
        transactions: Iterable[Sequence[Recorded]],
        decisions: Iterable[Sequence[Recorded]],
        progress: Callable[[FeaturesVerified], None],
    ) -> FeaturesVerified:
        """Fold all transactions that were decided; an interrupt ends it early."""
        try:
            decided = _Decided(decisions)
            for chunk in transactions:
                self._fold(chunk, decided)
                progress(self.result)
                if decided.is_over:
                    # What comes behind the last decision waits for its turn.
                    break
            for decision in decided.until(1 << 62):
                self._unexpected(decision)
        except KeyboardInterrupt:
            self.result.finished = False
        finally:
            self._cursor.close()
        return self.result

    def _fold(self, chunk: Sequence[Recorded], decided: _Decided) -> None:
        batch, rows, rejected = self._decoder.decode([record.value for record in chunk])
        times = [record.timestamp for record in chunk]
        keys = [record.key for record in chunk]
        batch, rows, refused = self._admission.admit(batch, rows, times, keys)
        self.result.rejected += len(rejected) + len(refused)
        found = {item.source[2]: item for item in decided.until(chunk[-1].offset + 1)}
        offsets = [chunk[row].offset for row in rows]
        if decided.is_over:
            last = max(found, default=-1)
            offsets = [offset for offset in offsets if offset <= last]
        self.result.transactions += len(chunk)
        place = 0
        for label_offset, group in groupby(self._label_offsets(offsets, found)):
            count = len(list(group))
            part = slice(place, place + count)
            self._step(batch.slice(part.start, part.stop), offsets[part], found, label_offset)
            place += count
        for decision in found.values():
            self._unexpected(decision)

    def _label_offsets(
        self, offsets: Sequence[int], found: dict[int, DecisionRecord]
    ) -> Iterator[int]:
        """Give the stamp of each event; one without a decision goes with those before it."""
        stamp = self._learner.offset
        for offset in offsets:
            if offset in found:
                stamp = found[offset].label_offset
            yield stamp

    def _step(
        self,
        batch: Transactions,
        offsets: Sequence[int],
        found: dict[int, DecisionRecord],
        label_offset: int,
    ) -> None:
        """Read and record events that saw the same labels, and compare what they read."""
        problem = self._learn_to(label_offset)
        sifted = self._ids.sift(batch)
        self.result.duplicates += sifted.duplicates
        self.result.rejected += len(sifted.conflicts)
        fresh = batch.take(sifted.fresh)
        features = self._kernel.read_and_record(fresh, self._profiles.open(fresh))
        for place, row in enumerate(sifted.fresh.tolist()):
            decision = found.pop(offsets[row], None)
            if decision is None:
                self.result.missing += 1
                pair = ("a decision", "none")
                self.result.find(fresh.transaction_id[place], offsets[row], "decision", pair)
            elif problem is not None:
                self.result.not_recomputed[problem] += 1
            else:
                self._compare(decision, fresh, place, features[place])

    def _learn_to(self, label_offset: int) -> str | None:
        """Fold the labels to an offset; say why not, if they cannot be."""
        if label_offset > self._end:
            return "the training log ends before the label offset"
        if label_offset < self._learner.offset:
            return "label offset lies behind that of the decision before"
        for examples in self._cursor.until(label_offset):
            self._learner.learn(self._learner.fresh(examples))
        self._learner.profiles.offset = label_offset
        return None

    def _compare(
        self, decision: DecisionRecord, batch: Transactions, row: int, features: NDArray[np.float32]
    ) -> None:
        result = self.result
        if decision.schema_hash != self._kernel.schema_hash:
            result.not_recomputed["schema hash is of other features"] += 1
            return
        different = list(self._differences(decision, batch, row, features))
        for what, expected, got in different[:1]:
            result.find(decision.transaction_id, decision.source[2], what, (expected, got))
        result.different += bool(different)
        result.equal += not different

    def _differences(
        self, decision: DecisionRecord, batch: Transactions, row: int, features: NDArray[np.float32]
    ) -> Iterator[tuple[str, object, object]]:
        keys = dict(zip(self._names, (ids[row] for ids in batch.keys), strict=True))
        pairs: list[tuple[str, object, object]] = [
            ("transaction_id", batch.transaction_id[row], decision.transaction_id),
            ("event_time", int(batch.event_time_ms[row]), decision.event_time),
            ("amount", int(batch.amount_minor[row]), decision.amount),
            ("currency", batch.currency[row], decision.currency),
            ("keys", keys, decision.keys),
        ]
        yield from (pair for pair in pairs if pair[1] != pair[2])
        expected, got = features.astype("<f4"), decision.features
        if expected.tobytes() == got:
            return
        if len(got) != expected.nbytes:
            yield "features", f"{expected.nbytes} bytes", f"{len(got)} bytes"
            return
        stored = unpack_features(got)
        for column in np.flatnonzero(expected.view("<u4") != stored.view("<u4")):
            name = self._kernel.names[column]
            yield f"feature {name}", float(expected[column]), float(stored[column])

    def _unexpected(self, decision: DecisionRecord) -> None:
        """Note a decision of a transaction that is not there, was rejected or is a duplicate."""
        self.result.unexpected += 1
        pair = ("no decision", "one")
        self.result.find(decision.transaction_id, decision.source[2], "decision", pair)
