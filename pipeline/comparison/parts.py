"""Two systems over some events: what each caught, what it cost, what only one of them saw.

Only events with a label count as caught or as false. What has none, above all what a system blocked
and nobody could complain of, counts as an alert and as nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.comparison.columns import ComparisonColumns
from pipeline.durations import DAY_MS
from pipeline.mistakes import Costs
from pipeline.quality.intervals import CONFIDENCE, DAYS_MIN, DRAWS, SEED, Interval, wilson

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


# On fewer frauds than these no difference is claimed, whatever its interval would say.
FRAUDS_MIN = 10


@dataclass(frozen=True, slots=True)
class Marks:
    """What a system stopped: an alert is a review or a decline."""

    alerted: Bools
    declined: Bools


@dataclass(frozen=True, slots=True)
class Side:
    """What one system did; money is in minor units.

    Parameters
    ----------
    unlabelled
        Alerts of which nobody knows what they were.
    false_positive_ratio
        Genuine alerts for each fraud caught.
    saved_minor
        Money of the frauds that were stopped, less what the false declines cost.
    """

    alerts: int
    alerts_a_day: float
    declined: int
    unlabelled: int
    caught: int
    caught_minor: int
    false_positives: int
    false_declines: int
    value_detected: float | None
    recall: float | None
    recall_interval: Interval | None
    precision: float | None
    precision_interval: Interval | None
    false_positive_ratio: float | None
    saved_minor: float


@dataclass(frozen=True, slots=True)
class Overlap:
    """Labelled frauds by who stopped them, and their money in minor units."""

    both: int
    only_we: int
    only_they: int
    none: int
    both_minor: int
    only_we_minor: int
    only_they_minor: int
    none_minor: int


@dataclass(frozen=True, slots=True)
class Part:
    """Both systems over the same events.

    Parameters
    ----------
    matured
        How many of the labels are those of silence.
    differences
        Ours less theirs in `value_detected`, `caught`, `false_positives` and `saved_minor`, with
        95 % intervals from drawing days; those that depend on frauds are left out where there are
        few frauds or few days with one, and all of them for a short period.
    """

    name: str
    decisions: int
    days: int
    labelled: int
    labelled_share: float | None
    matured: int
    frauds: int
    fraud_minor: int
    fraud_days: int
    we: Side
    they: Side
    overlap: Overlap
    differences: dict[str, Interval]


class Contest:
    """The events of a comparison in one way to stop them; gives its parts.

    Parameters
    ----------
    rows
        The events over which both systems are looked at.
    """

    def __init__(
        self, columns: ComparisonColumns, rows: Bools, *, we: Marks, they: Marks, costs: Costs
    ) -> None:
        self._columns, self._rows = columns, rows
        self._marks = {"we": we, "they": they}
        self._costs = costs
        self._days = columns.event_time_ms // DAY_MS

    @property
    def alerted_by_us(self) -> Bools:
        """Which events we stop."""
        return self._marks["we"].alerted

    def part(self, name: str, inside: Bools | None = None) -> Part:
        """Compare over the events of the contest, or over those that are `inside` as well."""
        rows = np.flatnonzero(self._rows if inside is None else self._rows & inside)
        columns = self._columns
        label, amount = columns.label[rows], columns.amount_minor[rows]
        fraud, genuine = label == 1, label == 0
        days, day = np.unique(self._days[rows], return_inverse=True)
        labelled = int((label >= 0).sum())
        we, they = (self._side(marks, rows, fraud, genuine, len(days)) for marks in self._both())
        return Part(
            name=name,
            decisions=len(rows),
            days=len(days),
            labelled=labelled,
            labelled_share=labelled / len(rows) if len(rows) else None,
            matured=int(columns.matured[rows].sum()),
            frauds=int(fraud.sum()),
            fraud_minor=int(amount[fraud].sum()),
            fraud_days=len(np.unique(day[fraud])),
            we=we,
            they=they,
            overlap=self._overlap(rows, fraud, amount),
            differences=self._differences(rows, fraud, genuine, day, len(days)),
        )

    def _both(self) -> tuple[Marks, Marks]:
        return self._marks["we"], self._marks["they"]

    def _side(self, marks: Marks, rows: Ints, fraud: Bools, genuine: Bools, days: int) -> Side:
        alerted, declined = marks.alerted[rows], marks.declined[rows]
        amount = self._columns.amount_minor[rows]
        alerts, caught = int(alerted.sum()), int((alerted & fraud).sum())
        false_positives = int((alerted & genuine).sum())
        frauds, money = int(fraud.sum()), int(amount[fraud].sum())
        caught_minor = int(amount[alerted & fraud].sum())
        return Side(
            alerts=alerts,
            alerts_a_day=alerts / days if days else 0.0,
            declined=int(declined.sum()),
            unlabelled=alerts - caught - false_positives,
            caught=caught,
            caught_minor=caught_minor,
            false_positives=false_positives,
            false_declines=int((declined & genuine).sum()),
            value_detected=caught_minor / money if money else None,
            recall=caught / frauds if frauds else None,
            recall_interval=wilson(caught, frauds),
            precision=_share(caught, caught + false_positives),
            precision_interval=wilson(caught, caught + false_positives),
            false_positive_ratio=_share(false_positives, caught),
            saved_minor=float(self._saved(marks, rows, fraud, genuine).sum()),
        )

    def _saved(self, marks: Marks, rows: Ints, fraud: Bools, genuine: Bools) -> Floats:
        """Give what each event saved, or cost, in minor units."""
        amount = self._columns.amount_minor[rows].astype(np.float64)
        cost = self._costs.decline_cost_minor + self._costs.decline_cost_share * amount
        saved = np.where(marks.alerted[rows] & fraud, amount, 0.0)
        return saved - np.where(marks.declined[rows] & genuine, cost, 0.0)

    def _overlap(self, rows: Ints, fraud: Bools, amount: Ints) -> Overlap:
        we, they = (marks.alerted[rows] for marks in self._both())
        parts = [fraud & we & they, fraud & we & ~they, fraud & ~we & they, fraud & ~we & ~they]
        return Overlap(
            *(int(part.sum()) for part in parts), *(int(amount[part].sum()) for part in parts)
        )

    def _differences(
        self, rows: Ints, fraud: Bools, genuine: Bools, day: Ints, days: int
    ) -> dict[str, Interval]:
        if days < DAYS_MIN:
            return {}
        drawn = drawn_days(days)
        amount = self._columns.amount_minor[rows].astype(np.float64)

        def difference(values: Sequence[Floats | Bools]) -> Floats:
            ours, theirs = (part.astype(np.float64) for part in values)
            return drawn @ np.bincount(day, ours - theirs, minlength=days)

        alerted = [marks.alerted[rows] for marks in self._both()]
        money = drawn @ np.bincount(day, amount * fraud, minlength=days)
        values = {"false_positives": difference([part & genuine for part in alerted])}
        if fraud.sum() >= FRAUDS_MIN and len(np.unique(day[fraud])) >= DAYS_MIN:
            with np.errstate(invalid="ignore", divide="ignore"):
                detected = difference([amount * (part & fraud) for part in alerted]) / money
            saved = [self._saved(marks, rows, fraud, genuine) for marks in self._both()]
            values |= {
                "value_detected": detected,
                "caught": difference([part & fraud for part in alerted]),
                "saved_minor": difference(saved),
            }
        found = {name: interval_of(column) for name, column in values.items()}
        return {name: interval for name, interval in found.items() if interval is not None}


def drawn_days(days: int) -> Floats:
    """Give how often each day is drawn, for each draw."""
    chance = np.random.default_rng(SEED)
    return chance.multinomial(days, np.full(days, 1.0 / days), size=DRAWS).astype(np.float64)


def interval_of(values: Floats) -> Interval | None:
    """Give the middle 95 % of what the draws gave; draws that say nothing are left out."""
    known = values[np.isfinite(values)]
    tail = (1.0 - CONFIDENCE) / 2.0
    return Interval(*np.quantile(known, (tail, 1.0 - tail)).tolist()) if len(known) else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
