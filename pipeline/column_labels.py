"""Labels of a file whose every event has one, joined to their decisions as columns.

Where each label comes a constant time after its event, whatever was decided, the order of labels is
that of the events, and the n-th label belongs to the n-th decision: nothing need be looked up, and
no object made for an event. That is most replays, at several times the speed. As soon as something
does not fit (an event that comes twice, one that nobody knows of, one that comes late, more waiting
than may wait) all is handed over to the general join, which goes on from there to the same bits.

The features of a decision are let go with its label: each label is the only one of its event, so
nothing is left that could correct it. Of the decision remain its id, time, key and verdict.

>>> ColumnLabels(delay_ms=1_000, limit=10).due(5_000)
[]
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Decisions
from pipeline.events import Transactions, no_numbers
from pipeline.examples import Examples
from pipeline.feedback import MemoryWaiting
from pipeline.key_table import KeyTable, keys_of
from pipeline.label_source import LabelSource, label_of
from pipeline.records import FEATURE_DTYPE, DecisionRecord
from pipeline.texts import joined
from pipeline.verdicts import settle


@dataclass(slots=True)
class _Kept:
    """A batch of events, its truth, and how many of its rows have had their label.

    `decisions` are `None` once all rows have: they taught what they had to teach.
    """

    events: Transactions
    is_fraud: NDArray[np.int8]
    decisions: Decisions | None
    labelled: int = 0

    def let_go(self) -> None:
        """Keep only what a verdict is made of."""
        self.decisions = None
        events = self.events
        empty = np.empty(0, np.int64)
        self.events = Transactions(
            events.transaction_id, events.event_time_ms, events.keys[:1], empty, (), no_numbers(0)
        )


@dataclass(frozen=True, slots=True)
class _Taught:
    """Decisions that have had their last label: they are known, and never asked for again."""

    transaction_ids: Sequence[str]

    def record(self, place: int) -> DecisionRecord:
        raise AssertionError(f"decision {self.transaction_ids[place]} was let go with its label")


@dataclass(frozen=True, slots=True)
class LabelledPart:
    """Rows `start` to before `stop` of a batch of decisions, whose labels became known."""

    decisions: Decisions
    is_fraud: NDArray[np.int8]
    start: int
    stop: int

    def scores(self) -> list[NDArray[np.float64]]:
        """Give what each model said of the rows, the champion first."""
        said = (self.decisions.scores, *self.decisions.challengers.values())
        return [scores[self.start : self.stop] for scores in said]

    def member_scores(self, name: str) -> NDArray[np.float64]:
        """Give what a member of a mixture said of the rows; NaN where it was not asked."""
        if name not in self.decisions.members:
            return np.full(self.stop - self.start, np.nan)
        return self.decisions.members[name][self.start : self.stop]


def examples_of(parts: Sequence[LabelledPart]) -> Examples:
    """Give what is to be learned of rows whose labels became known; at least one part."""
    events = [part.decisions.transactions.slice(part.start, part.stop) for part in parts]
    features = [part.decisions.features[part.start : part.stop] for part in parts]
    is_fraud = np.concatenate([part.is_fraud[part.start : part.stop] for part in parts])
    return Examples(
        transaction_id=joined([batch.transaction_id for batch in events]),
        keys=tuple(joined(ids) for ids in zip(*(batch.keys for batch in events), strict=True)),
        features=np.concatenate(features).astype(FEATURE_DTYPE, copy=False),
        is_fraud=is_fraud,
        weights=np.ones(len(is_fraud)),
        amount=np.concatenate([batch.amount_minor for batch in events]),
        event_time_ms=np.concatenate([batch.event_time_ms for batch in events]),
        corrects=np.zeros(len(is_fraud), np.bool_),
        members={
            name: np.concatenate([part.member_scores(name) for part in parts])
            for name in {name for part in parts for name in part.decisions.members}
        },
    )


class ColumnLabels:
    """Decisions that wait for their label, in the order of their events.

    Parameters
    ----------
    limit
        Decisions that are remembered, those with a label as well; the oldest go.
    """

    def __init__(self, delay_ms: int, limit: int) -> None:
        self._delay_ms, self._limit = delay_ms, limit
        self._kept: deque[_Kept] = deque()
        self._waiting: deque[_Kept] = deque()
        self._ids: KeyTable | None = None
        self._last_key = -1
        self._count = self._unlabelled = 0
        self._last_ms = 0

    def add(self, batch: Transactions, decisions: Decisions, is_fraud: NDArray[np.int8]) -> bool:
        """Keep a batch with its truth; `False`, and nothing kept, where it does not fit."""
        times, count = batch.event_time_ms, len(batch)
        if len(decisions) < count or self._unlabelled + count > self._limit:
            return False
        if int(is_fraud.min()) < 0 or int(times[0]) < self._last_ms or (np.diff(times) < 0).any():
            return False
        if not self._are_new(keys_of(decisions.transaction_ids)):
            return False
        kept = _Kept(batch, is_fraud, decisions)
        self._kept.append(kept)
        self._waiting.append(kept)
        self._count += count
        self._unlabelled += count
        self._last_ms = int(times[-1])
        self._forget()
        return True

    def _are_new(self, keys: NDArray[np.int64]) -> bool:
        """Say whether none is remembered; as long as ids are numbers that grow, without a table."""
        if self._ids is None:
            if int(keys[0]) > self._last_key and (np.diff(keys) > 0).all():
                self._last_key = int(keys[-1])
                return True
            self._ids = KeyTable(width=1)
            for kept in self._kept:
                self._ids.add_new(keys_of(kept.events.transaction_id))
        return self._ids.add_new(keys)

    def due(self, now_ms: int) -> list[LabelledPart]:
        """Give, once, what has its label at this moment, in the order of the labels."""
        found = []
        event_ms = now_ms - self._delay_ms
        while self._waiting:
            kept = self._waiting[0]
            assert kept.decisions is not None, "it waits for a label"
            times = kept.events.event_time_ms
            stop = int(np.searchsorted(times, event_ms, side="right"))
            if stop > kept.labelled:
                found.append(LabelledPart(kept.decisions, kept.is_fraud, kept.labelled, stop))
                self._unlabelled -= stop - kept.labelled
                kept.labelled = stop
            if stop < len(times):
                break
            self._waiting.popleft()
            kept.let_go()
        return found

    def hand_over(self, waiting: MemoryWaiting, coming: LabelSource, *, training_seq: int) -> None:
        """Bring the general join to where it would stand now.

        `training_seq` is the number of the next example.
        """
        seq = training_seq - sum(kept.labelled for kept in self._kept)
        for kept in self._kept:
            events, decisions = kept.events, kept.decisions
            waiting.add(_Taught(events.transaction_id) if decisions is None else decisions)
            for row in range(kept.labelled):
                label = label_of(events, kept.is_fraud, row, self._delay_ms)
                _, verdict = settle(None, label, training_seq=seq)
                if waiting.knows(label.transaction_id):
                    waiting.set_verdict(label.transaction_id, verdict)
                seq += 1
            if decisions is not None and kept.labelled < len(events):
                rest = events.slice(kept.labelled, len(events))
                coming.decided(rest, decisions, kept.is_fraud[kept.labelled :])

    @property
    def delay_ms(self) -> int:
        """Event time from an event to its label."""
        return self._delay_ms

    def _forget(self) -> None:
        """Let the oldest batches go, whole, as long as the limit is held without them."""
        while self._count - len(self._kept[0].events) >= self._limit:
            oldest = len(self._kept.popleft().events)
            self._count -= oldest
            if self._ids is not None:
                self._ids.forget(oldest)
