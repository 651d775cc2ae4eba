"""Labels meet the decisions that wait for them.

A label comes minutes (an analyst) or weeks (a chargeback) after its decision. It is joined to the
features that the decision was made on, so that learning never sees a history that includes the
future (the rule of beaver: learn on what was predicted on).

| at | decision | label           | what happens                       |
|----|----------|-----------------|------------------------------------|
| t1 | d1       |                 | waits                              |
| t2 |          | d1 fraud        | learned                            |
| t3 |          | d1 fraud again  | repeated or confirmed: counted     |
| t4 |          | d1 genuine      | corrected, if its source may       |

>>> first = Label("l1", "t1", "c1", True, "simulated", 1_600_000_000_000)
>>> path, known = settle(None, first)
>>> path, settle(known, first)[0]
('learned', 'repeated')
>>> settle(known, Label("l2", "t1", "c1", False, "analyst", 1_600_000_100_000))[0]
'corrected'
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import msgspec

from pipeline.events import Label, Source
from pipeline.records import DecisionRecord, TrainingExample

LabelPath = Literal["learned", "corrected", "repeated", "confirmed", "contradicted", "unknown"]
"""What became of a label: the first two are learned, the others say why not."""
LABEL_PATHS: tuple[LabelPath, ...] = get_args(LabelPath)

# Whose word stands against whose: a later label of an equal or higher rank corrects an earlier one.
SOURCE_RANKS: dict[Source, int] = {
    "matured": 0,
    "simulated": 1,
    "customer": 2,
    "chargeback": 3,
    "analyst": 3,
    "dispute_won": 4,
}
# Labels of one decision whose ids are remembered; a redelivery older than these is judged anew.
HISTORY_MAX = 8


class KnownVerdict(msgspec.Struct, frozen=True):
    """The verdict that was learned for a decision, and the labels seen for it."""

    label_id: str
    is_fraud: bool
    source: Source
    history: tuple[str, ...]


class Waiting(Protocol):
    """Decisions that may still get a label, and the verdicts that are known of them."""

    def decision(self, transaction_id: str) -> DecisionRecord | None:
        """Give the decision, or `None` where none is kept."""

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A label and what became of it; `decision` is there when it is to be learned."""

    label: Label
    path: LabelPath
    decision: DecisionRecord | None = None
    supersedes: str | None = None

    def example(self, *, partition: int, training_seq: int) -> TrainingExample:
        """Give the training example of a label that is to be learned."""
        assert self.decision is not None
        decision = self.decision
        return TrainingExample(
            label_id=self.label.label_id,
            transaction_id=decision.transaction_id,
            partition=partition,
            training_seq=training_seq,
            verdict="fraud" if self.label.is_fraud else "genuine",
            source=self.label.source,
            weight=1.0,
            supersedes=self.supersedes,
            keys=decision.keys,
            amount=decision.amount,
            event_time=decision.event_time,
            label_time=self.label.label_time_ms,
            schema_hash=decision.schema_hash,
            features=decision.features,
            score=decision.score,
            action=decision.action,
            model_version=decision.model_version,
            challengers=decision.challengers,
        )


def settle(known: KnownVerdict | None, label: Label) -> tuple[LabelPath, KnownVerdict]:
    """Say what becomes of a label whose decision is there, and what is known afterwards."""
    if known is None:
        verdict = KnownVerdict(label.label_id, label.is_fraud, label.source, (label.label_id,))
        return "learned", verdict
    if label.label_id in known.history:
        return "repeated", known
    history = (*known.history, label.label_id)[-HISTORY_MAX:]
    stands_back = SOURCE_RANKS[label.source] < SOURCE_RANKS[known.source]
    if label.is_fraud == known.is_fraud:
        source = known.source if stands_back else label.source
        return "confirmed", KnownVerdict(known.label_id, known.is_fraud, source, history)
    if stands_back and label.supersedes != known.label_id:
        return "contradicted", msgspec.structs.replace(known, history=history)
    return "corrected", KnownVerdict(label.label_id, label.is_fraud, label.source, history)


def join(waiting: Waiting, labels: Sequence[Label]) -> Iterator[Settled]:
    """Settle labels one after the other, in the order of their log."""
    for label in labels:
        decision = waiting.decision(label.transaction_id)
        if decision is None:
            yield Settled(label, "unknown")
            continue
        known = waiting.verdict(label.transaction_id)
        path, verdict = settle(known, label)
        waiting.set_verdict(label.transaction_id, verdict)
        if path == "learned":
            yield Settled(label, path, decision)
        elif path == "corrected":
            assert known is not None
            yield Settled(label, path, decision, supersedes=known.label_id)
        else:
            yield Settled(label, path)


def matured_label(decision: DecisionRecord, maturity_ms: int) -> Label | None:
    """Give the label of a decision that nobody spoke against in time, if silence proves anything.

    A transaction that was declined, or held for review, did not go through: that nobody complained
    says nothing about it. Only an approved one matures as genuine.
    """
    if decision.action != "approve":
        return None
    return Label(
        label_id=f"matured-{decision.transaction_id}"[:64],
        transaction_id=decision.transaction_id,
        key=next(iter(decision.keys.values())),
        is_fraud=False,
        source="matured",
        label_time_ms=decision.event_time + maturity_ms,
        by="maturity",
    )


class MemoryWaiting:
    """Waiting decisions in memory; beyond `limit` the oldest goes, and `expired` counts it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decisions: OrderedDict[str, DecisionRecord] = OrderedDict()
        self._verdicts: dict[str, KnownVerdict] = {}
        self._maturing: OrderedDict[str, None] = OrderedDict()
        self.expired = 0

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, decisions: Sequence[DecisionRecord]) -> None:
        """Keep decisions, in their order."""
        for decision in decisions:
            self._decisions[decision.transaction_id] = decision
            self._maturing[decision.transaction_id] = None
        while len(self._decisions) > self._limit:
            oldest, _ = self._decisions.popitem(last=False)
            self._verdicts.pop(oldest, None)
            self._maturing.pop(oldest, None)
            self.expired += 1

    def decision(self, transaction_id: str) -> DecisionRecord | None:
        """Give the decision, or `None` where none is kept."""
        return self._decisions.get(transaction_id)

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""
        return self._verdicts.get(transaction_id)

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""
        self._verdicts[transaction_id] = verdict

    def take_matured(self, now_ms: int, maturity_ms: int) -> Iterator[DecisionRecord]:
        """Give, once each, the decisions without a verdict that are old enough."""
        while self._maturing:
            oldest = next(iter(self._maturing))
            decision = self._decisions[oldest]
            if decision.event_time + maturity_ms > now_ms:
                return
            self._maturing.popitem(last=False)
            if oldest not in self._verdicts:
                yield decision
