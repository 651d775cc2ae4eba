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
| t5 | d2       |                 | waits; nobody speaks; it matures   |

>>> went_through("approve", None), went_through("decline", None), went_through("review", "settled")
(True, False, True)
>>> went_through("none", None)
True
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from pipeline.events import Label, Outcome
from pipeline.label_words import OutcomeKind
from pipeline.records import Action, DecisionRecord, Taken, TrainingExample
from pipeline.verdicts import KnownVerdict, LabelPath, settle

# Of an event with one of these outcomes nobody will ever complain, so silence proves nothing: it
# did not go through, or the money went back before anybody looked.
SILENCE_PROVES_NOTHING: frozenset[OutcomeKind] = frozenset({"issuer_declined", "refunded"})


WentThrough = Callable[[Taken, OutcomeKind | None, Action | None], bool]
"""Whether silence about an event proves anything, given what was done, what became of it, and what
the system beside us did."""


class Waiting(Protocol):
    """Decisions that may still get a label, and the verdicts that are known of them."""

    def knows(self, transaction_id: str) -> bool:
        """Say whether the decision is there."""

    def decision(self, transaction_id: str) -> DecisionRecord:
        """Give a decision that is there and has something to teach."""

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""


class Settled(msgspec.Struct, frozen=True, gc=False):
    """A label and what became of it.

    Parameters
    ----------
    decision, training_seq
        What was decided and the number of the example, where the label is to be learned.
    replaced
        The verdict that a correction replaces.
    """

    label: Label
    path: LabelPath
    decision: DecisionRecord | None = None
    training_seq: int = -1
    replaced: KnownVerdict | None = None

    def example(self, *, partition: int) -> TrainingExample:
        """Give the training example of a label that is to be learned."""
        assert self.decision is not None
        decision = self.decision
        return TrainingExample(
            label_id=self.label.label_id,
            transaction_id=decision.transaction_id,
            partition=partition,
            training_seq=self.training_seq,
            verdict="fraud" if self.label.is_fraud else "genuine",
            source=self.label.source,
            weight=1.0,
            supersedes=self.replaced.training_seq if self.replaced else None,
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
            members=decision.members,
            rules=decision.rules,
        )


def join(waiting: Waiting, labels: Sequence[Label], *, training_seq: int) -> Iterator[Settled]:
    """Settle labels one after the other, in the order of their log.

    `training_seq` is the number of the first example that comes of them; each takes the next.
    """
    for label in labels:
        if not waiting.knows(label.transaction_id):
            yield Settled(label, "unknown")
            continue
        known = waiting.verdict(label.transaction_id)
        path, verdict = settle(known, label, training_seq=training_seq)
        waiting.set_verdict(label.transaction_id, verdict)
        if path in ("learned", "corrected"):
            decision = waiting.decision(label.transaction_id)
            yield Settled(label, path, decision, training_seq, replaced=known)
            training_seq += 1
        else:
            yield Settled(label, path)


def went_through(
    taken: Taken, outcome: OutcomeKind | None, incumbent: Action | None = None
) -> bool:
    """Say whether somebody would have complained by now, had it been fraud.

    A transaction that was declined, or held for review, by us or by the `incumbent`, did not go
    through unless its outcome says so: that nobody complained says nothing about it. While we only
    observe, we hold nothing up.
    """
    if outcome is None:
        return taken in ("approve", "none") and incumbent in (None, "approve")
    return outcome not in SILENCE_PROVES_NOTHING


def matured_label(decision: DecisionRecord, maturity_ms: int) -> Label:
    """Give the label of a decision that went through and that nobody spoke against in time."""
    return Label(
        label_id=f"matured-{decision.transaction_id}"[:64],
        transaction_id=decision.transaction_id,
        key=next(iter(decision.keys.values())),
        is_fraud=False,
        source="matured",
        label_time_ms=decision.event_time + maturity_ms,
        by="maturity",
    )


class Decided(Protocol):
    """A batch of decisions as columns, of which single ones can be taken."""

    @property
    def transaction_ids(self) -> Sequence[str]:
        """The ids, in the order of the decisions."""

    def record(self, place: int) -> DecisionRecord:
        """Give one decision in its wire form."""


class MemoryWaiting:
    """Waiting decisions in memory; beyond `limit` the oldest goes, and `expired` counts it."""

    def __init__(self, limit: int, maturity: WentThrough = went_through) -> None:
        self._limit = limit
        self._went_through = maturity
        self._decisions: OrderedDict[str, tuple[Decided, int]] = OrderedDict()
        self._verdicts: dict[str, KnownVerdict] = {}
        self._outcomes: dict[str, OutcomeKind] = {}
        self._maturing: deque[str] = deque()
        self.expired = 0

    def __len__(self) -> int:
        return len(self._decisions)

    def add(self, decisions: Decided) -> None:
        """Keep decisions, in their order."""
        for place, transaction_id in enumerate(decisions.transaction_ids):
            self._decisions[transaction_id] = (decisions, place)
            self._maturing.append(transaction_id)
        while len(self._decisions) > self._limit:
            oldest, _ = self._decisions.popitem(last=False)
            self._outcomes.pop(oldest, None)
            # Only what still waited is given up; what has its verdict has done its work.
            self.expired += self._verdicts.pop(oldest, None) is None

    def knows(self, transaction_id: str) -> bool:
        """Say whether the decision is there."""
        return transaction_id in self._decisions

    def decision(self, transaction_id: str) -> DecisionRecord:
        """Give a decision that is there."""
        decisions, place = self._decisions[transaction_id]
        return decisions.record(place)

    def verdict(self, transaction_id: str) -> KnownVerdict | None:
        """Give what is known of the decision already."""
        return self._verdicts.get(transaction_id)

    def set_verdict(self, transaction_id: str, verdict: KnownVerdict) -> None:
        """Keep what is known of the decision from now on."""
        self._verdicts[transaction_id] = verdict

    def set_outcome(self, outcome: Outcome) -> None:
        """Keep what became of an event; of an unknown one, nothing."""
        if outcome.transaction_id in self._decisions:
            self._outcomes[outcome.transaction_id] = outcome.outcome

    def take_matured(self, now_ms: int, maturity_ms: int) -> Iterator[DecisionRecord]:
        """Give, once each, what went through long enough ago and got no verdict."""
        while self._maturing:
            oldest = self._maturing[0]
            due = None
            if oldest in self._decisions and oldest not in self._verdicts:
                due = self.decision(oldest)
                if due.event_time + maturity_ms > now_ms:
                    return
            self._maturing.popleft()
            if due is None:
                continue
            incumbent = due.incumbent.action if due.incumbent else None
            if self._went_through(due.taken, self._outcomes.get(oldest), incumbent):
                yield due
