"""The world behind the stream: what becomes of an event depends on what was decided of it.

A labelled file tells the truth about every event, whatever a system did. The world does not. What
was declined never happened, so nobody ever says what it was. Of the alerts only a budget is
reviewed; what nobody looks at goes through. Fraud that went through comes back as a chargeback
weeks later; a genuine payment comes back as nothing at all. In observe mode nothing is taken of
what is decided, so every event goes on as if approved.

| taken             | truth            | what becomes known, and when                            |
|-------------------|------------------|---------------------------------------------------------|
| decline           | any              | nothing, ever                                           |
| review, in budget | fraud            | analyst: fraud, hours later; it does not go through     |
| review, in budget | genuine          | analyst: genuine, hours later, and outcome approved     |
| review, beyond it | any              | outcome approved at the hour's end, then as below       |
| approve, none     | any, now and then| outcome issuer_declined, then nothing                   |
| it went through   | fraud            | chargeback after 20-90 days; for some the holder calls  |
|                   |                  | first, after 1-5 days; a few are never noticed          |
| it went through   | genuine          | silence; rarely a chargeback by mistake, which the      |
|                   |                  | merchant disputes and wins                              |

Chance is a keyed hash of the transaction id: the same decisions have the same consequences, in
whatever order or batches they come.

>>> sure = LoopOptions(called_share=0.0, unnoticed_share=0.0, issuer_declined_share=0.0)
>>> world = ClosedLoop(sure)
>>> start_ms = 1_600_000_000_000
>>> world.react(Case("t1", "c1", start_ms, 950, "decline", 0.9, 1))
>>> world.react(Case("t2", "c1", start_ms, 950, "approve", 0.1, 1))
>>> [(label.transaction_id, label.source) for label in world.due(start_ms + 91 * DAY_MS).labels]
[('t2', 'chargeback')]
>>> world.report().frauds, world.report().value_detected
(2, 0.5)
"""

import hashlib
import heapq
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.errors import SettingError
from pipeline.events import Label, Outcome, Transactions
from pipeline.label_source import Known
from pipeline.label_words import OutcomeKind, Source
from pipeline.records import Taken
from producers.encoding import label_id_of

if TYPE_CHECKING:
    from pipeline.engine import Decisions

# Card schemes take weeks: the holder reads the statement first, and the bank asks before it files.
CHARGEBACK_DAYS = (20, 90)
CALL_DAYS = (1, 5)
DISPUTE_DAYS = (20, 60)
ANSWER_HOURS = (0, 4)
ISSUER_ANSWER_MS = 1_000
HOURS_A_DAY = 24

Fate = Literal["declined", "reviewed", "unreviewed", "approved", "issuer_declined"]
"""What became of an event: the last three were not stopped by us."""

PREFIXES: dict[Source, str] = {
    "analyst": "an-",
    "chargeback": "cb-",
    "customer": "cu-",
    "dispute_won": "dw-",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How the world answers.

    Parameters
    ----------
    review_budget
        Alerts that are reviewed in a day. An hour's alerts are looked at when it ends, highest
        scores first, as far as the day's budget reaches by then; the others go through.
    unnoticed_share
        The share of the frauds that went through of which nobody ever complains.
    called_share
        The share of the others whose holder calls within days, long before the chargeback.
    mistaken_share
        The share of the genuine that are charged back by mistake; each of these is reversed.
    issuer_declined_share
        The share of what we approved that the issuer then declines.
    seed
        The key of all chance.
    start_ms, end_ms
        The report counts events from `start_ms` to before `end_ms`.
    """

    review_budget: int = 100
    unnoticed_share: float = 0.05
    called_share: float = 0.1
    mistaken_share: float = 0.00005
    issuer_declined_share: float = 0.01
    seed: int = 7
    start_ms: int | None = None
    end_ms: int | None = None

    def __post_init__(self) -> None:
        if self.review_budget < 0 or self.seed < 0:
            raise SettingError(
                f"review_budget ({self.review_budget}) and seed ({self.seed}) must not be negative"
            )
        for name in ("unnoticed", "called", "mistaken", "issuer_declined"):
            share = getattr(self, f"{name}_share")
            if not 0.0 <= share <= 1.0:
                raise SettingError(f"{name}_share must be 0 to 1 (got {share})")


class Case(NamedTuple):
    """What was done with an event and the truth of it: 1 fraud, 0 genuine, -1 known to nobody."""

    transaction_id: str
    key: str
    event_time_ms: int
    amount_minor: int
    taken: Taken
    score: float
    is_fraud: int


class _Chances(NamedTuple):
    """Numbers from 0 to below 1, all of one transaction."""

    issuer: float
    noticed: float
    chargeback: float
    called: float
    call: float
    mistaken: float
    dispute: float
    answer: float


@dataclass(frozen=True, slots=True)
class LoopReport:
    """What the decisions were worth, by the truth; money in minor units.

    Parameters
    ----------
    value_detected
        Money of the frauds that were declined or found by review, of all frauds that the issuer
        did not stop; `None` where there was no fraud.
    missed_minor
        Money of the frauds that went through.
    false_declines
        Genuine events that were declined.
    alerts_waiting
        Alerts of hours that have not ended.
    observed
        Events whose decision was not acted on, by the mode.
    """

    decided: int
    frauds: int
    frauds_declined: int
    frauds_reviewed: int
    frauds_missed: int
    frauds_issuer_declined: int
    value_detected: float | None
    missed_minor: int
    false_declines: int
    false_declines_minor: int
    alerts_reviewed: int
    alerts_unreviewed: int
    alerts_waiting: int
    observed: int
    issuer_declined: int
    labels: dict[str, int]
    outcomes: dict[str, int]
    labels_waiting: int


class ClosedLoop:
    """The world as a label source: it is told what was decided, and answers in its own time.

    What it remembers is bounded by its delays: what is on its way back (some of the frauds of the
    last 90 days, outcomes of a moment) and the alerts of the hours that have not ended.
    """

    def __init__(self, options: LoopOptions) -> None:
        self._options = options
        self._key = b"closed loop %d" % options.seed
        self._alerts: dict[int, list[Case]] = {}
        self._day, self._reviewed = 0, 0
        self._coming: list[tuple[int, int, Label | Outcome]] = []
        self._serial = 0
        self._cases: Counter[tuple[Fate, int]] = Counter()
        self._money: Counter[tuple[Fate, int]] = Counter()
        self._given: Counter[str] = Counter()
        self._observed = 0

    def decided(
        self, batch: Transactions, decisions: "Decisions", is_fraud: NDArray[np.int8]
    ) -> None:
        """Take a batch of decisions; an event that came twice was decided once."""
        events = decisions.transactions
        columns = zip(
            events.transaction_id,
            events.keys[0],
            events.event_time_ms.tolist(),
            events.amount_minor.tolist(),
            decisions.taken,
            decisions.scores.tolist(),
            is_fraud[decisions.rows].tolist(),
            strict=True,
        )
        for row in columns:
            self.react(Case(*row))

    def react(self, case: Case) -> None:
        """Let one decision have its consequences."""
        self._observed += case.taken == "none"
        if case.taken == "decline":
            self._count("declined", case)
        elif case.taken == "review":
            self._alerts.setdefault(case.event_time_ms // HOUR_MS, []).append(case)
        elif self._chances(case).issuer < self._options.issuer_declined_share:
            self._count("issuer_declined", case)
            self._outcome(case, "issuer_declined", case.event_time_ms + ISSUER_ANSWER_MS)
        else:
            self._count("approved", case)
            self._go_through(case)

    def due(self, now_ms: int) -> Known:
        """Give, once, everything that is known at this moment and was not given before."""
        for hour in sorted(self._alerts):
            if (hour + 1) * HOUR_MS <= now_ms:
                self._review(hour, self._alerts.pop(hour))
        known = Known()
        while self._coming and self._coming[0][0] <= now_ms:
            item = heapq.heappop(self._coming)[2]
            if isinstance(item, Label):
                known.labels.append(item)
                self._given[item.source] += 1
            else:
                known.outcomes.append(item)
                self._given[item.outcome] += 1
        return known

    def report(self) -> LoopReport:
        """Say what the decisions were worth until now."""
        cases, money = self._cases, self._money
        caught = money["declined", 1] + money["reviewed", 1]
        missed = money["approved", 1] + money["unreviewed", 1]
        by_kind = dict(sorted(self._given.items()))
        return LoopReport(
            decided=cases.total(),
            frauds=_total(cases, is_fraud=1),
            frauds_declined=cases["declined", 1],
            frauds_reviewed=cases["reviewed", 1],
            frauds_missed=cases["approved", 1] + cases["unreviewed", 1],
            frauds_issuer_declined=cases["issuer_declined", 1],
            value_detected=caught / (caught + missed) if caught + missed else None,
            missed_minor=missed,
            false_declines=cases["declined", 0],
            false_declines_minor=money["declined", 0],
            alerts_reviewed=_total(cases, fate="reviewed"),
            alerts_unreviewed=_total(cases, fate="unreviewed"),
            alerts_waiting=sum(len(alerts) for alerts in self._alerts.values()),
            observed=self._observed,
            issuer_declined=_total(cases, fate="issuer_declined"),
            labels={kind: count for kind, count in by_kind.items() if kind in PREFIXES},
            outcomes={kind: count for kind, count in by_kind.items() if kind not in PREFIXES},
            labels_waiting=len(self._coming),
        )

    def _review(self, hour: int, alerts: list[Case]) -> None:
        """Look at an hour's alerts as it ends, as far as the budget reaches."""
        day, hour_of_day = divmod(hour, HOURS_A_DAY)
        if day > self._day:
            self._day, self._reviewed = day, 0
        # The budget is spread over the day; what one hour leaves, a later one may use.
        allowed = self._options.review_budget * (hour_of_day + 1) // HOURS_A_DAY
        budget = max(0, allowed - self._reviewed)
        alerts.sort(key=lambda case: (-case.score, case.transaction_id))
        self._reviewed += min(budget, len(alerts))
        for place, case in enumerate(alerts):
            # What is known to nobody cannot be found out by looking either.
            if place < budget and case.is_fraud >= 0:
                self._answer(case, (hour + 1) * HOUR_MS)
            else:
                self._let_through(case, (hour + 1) * HOUR_MS)

    def _let_through(self, case: Case, at_ms: int) -> None:
        self._count("unreviewed", case)
        self._outcome(case, "approved", at_ms)
        self._go_through(case)

    def _answer(self, case: Case, looked_ms: int) -> None:
        self._count("reviewed", case)
        answer_ms = looked_ms + _within(ANSWER_HOURS, HOUR_MS, self._chances(case).answer)
        self._label(case, "analyst", is_fraud=case.is_fraud == 1, at_ms=answer_ms)
        if case.is_fraud == 0:
            self._outcome(case, "approved", answer_ms)
            self._go_through(case)

    def _go_through(self, case: Case) -> None:
        """Let an event happen: what its card's holder will say of it, and when."""
        chances, options = self._chances(case), self._options
        charged_ms = case.event_time_ms + _within(CHARGEBACK_DAYS, DAY_MS, chances.chargeback)
        if case.is_fraud == 1 and chances.noticed >= options.unnoticed_share:
            if chances.called < options.called_share:
                call_ms = case.event_time_ms + _within(CALL_DAYS, DAY_MS, chances.call)
                self._label(case, "customer", is_fraud=True, at_ms=call_ms)
            self._label(case, "chargeback", is_fraud=True, at_ms=charged_ms)
        elif case.is_fraud == 0 and chances.mistaken < options.mistaken_share:
            self._label(case, "chargeback", is_fraud=True, at_ms=charged_ms)
            won_ms = charged_ms + _within(DISPUTE_DAYS, DAY_MS, chances.dispute)
            self._label(case, "dispute_won", is_fraud=False, at_ms=won_ms)

    def _label(self, case: Case, source: Source, *, is_fraud: bool, at_ms: int) -> None:
        reversed_one = label_id_of(case.transaction_id, PREFIXES["chargeback"])
        label = Label(
            label_id=label_id_of(case.transaction_id, PREFIXES[source]),
            transaction_id=case.transaction_id,
            key=case.key,
            is_fraud=is_fraud,
            source=source,
            label_time_ms=at_ms,
            supersedes=reversed_one if source == "dispute_won" else None,
        )
        self._send_back(at_ms, label)

    def _outcome(self, case: Case, kind: OutcomeKind, at_ms: int) -> None:
        self._send_back(at_ms, Outcome(case.transaction_id, case.key, kind, at_ms))

    def _send_back(self, at_ms: int, item: Label | Outcome) -> None:
        self._serial += 1
        heapq.heappush(self._coming, (at_ms, self._serial, item))

    def _count(self, fate: Fate, case: Case) -> None:
        options = self._options
        if options.start_ms is not None and case.event_time_ms < options.start_ms:
            return
        if options.end_ms is not None and case.event_time_ms >= options.end_ms:
            return
        self._cases[fate, case.is_fraud] += 1
        self._money[fate, case.is_fraud] += case.amount_minor

    def _chances(self, case: Case) -> _Chances:
        digest = hashlib.blake2b(case.transaction_id.encode(), digest_size=64, key=self._key)
        return _Chances(*(number / 2.0**64 for number in struct.unpack("<8Q", digest.digest())))


def _within(bounds: tuple[int, int], unit_ms: int, chance: float) -> int:
    low, high = bounds
    return int((low + (high - low) * chance) * unit_ms)


def _total(
    counts: Counter[tuple[Fate, int]], *, fate: Fate | None = None, is_fraud: int | None = None
) -> int:
    return sum(
        count
        for (found_fate, found_truth), count in counts.items()
        if fate in (None, found_fate) and is_fraud in (None, found_truth)
    )
