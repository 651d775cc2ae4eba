"""How good the versions of each day were: quality by model version, in bounded memory.

A live model has a version every few seconds, and the labels of its decisions come over months. So
the versions in force on one UTC day are judged together, by the event time of what they decided,
whenever its label comes; the training offsets of the first and the last of them name the versions.
A day is kept for as long as a label may come. A number of the newest days with enough labels is
shown, so that the label of a metric does not grow for ever.

>>> days = VersionQuality(days_shown=2, labels_min=2)
>>> for day in (0, 1, 2):
...     days.observe("additive", [0.9, 0.2], [True, False], [day * DAY_MS] * 2, [day * 100] * 2)
>>> days.observe("additive", [0.5], [False], [3 * DAY_MS], [300])
>>> [(shown.day, shown.labels, shown.offset_last) for shown in days.shown("additive")]
[('1970-01-02', 2, 100), ('1970-01-03', 2, 200)]
>>> days.shown("additive")[0].average_precision
1.0
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.durations import DAY_MS
from pipeline.evaluation import Bools, Floats, columns, log_losses, squared_errors
from pipeline.label_maturity import DAYS_KEPT

# A week of days, so that a bad Sunday is not the only one.
DAYS_SHOWN = 7
# Of 500 labels a handful are frauds: fewer say nothing about ranking.
LABELS_MIN = 500
# Scores are told apart by their log-odds, of which these bins cover -12 to 12 in steps of 0.05.
LOG_ODDS_MAX = 12.0
SCORE_BINS = 480

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DayQuality:
    """What the versions of one day were worth; the offsets are those of the first and the last."""

    day: str
    labels: int
    frauds: int
    log_loss: float
    brier: float
    average_precision: float | None
    offset_first: int
    offset_last: int


@dataclass(slots=True)
class _Day:
    """Sums over the labels of one day's decisions, and a histogram of their scores by verdict."""

    log_loss_sum: float = 0.0
    brier_sum: float = 0.0
    offset_first: int | None = None
    offset_last: int = 0
    bins: Counts = field(default_factory=lambda: np.zeros((2, SCORE_BINS), np.int64))

    def add(self, scores: Floats, is_fraud: Bools, sign: int = 1) -> None:
        np.add.at(self.bins, (is_fraud.astype(np.int64), _bin(scores)), sign)
        self.log_loss_sum += sign * float(log_losses(scores, is_fraud).sum())
        self.brier_sum += sign * float(squared_errors(scores, is_fraud).sum())

    def note(self, offsets: Counts) -> None:
        lowest, highest = int(offsets.min()), int(offsets.max())
        self.offset_first = min(lowest, lowest if self.offset_first is None else self.offset_first)
        self.offset_last = max(highest, self.offset_last)

    def knows(self, scores: Floats, is_fraud: Bools) -> bool:
        return bool((self.bins[is_fraud.astype(np.int64), _bin(scores)] > 0).all())

    @property
    def labels(self) -> int:
        return int(self.bins.sum())


class VersionQuality:
    """Quality of the versions in force on each day, by model; beyond `DAYS_KEPT` the oldest goes.

    Parameters
    ----------
    days_shown, labels_min
        How many days `shown` gives at most, and how many labels a day must have for it.
    """

    def __init__(self, *, days_shown: int = DAYS_SHOWN, labels_min: int = LABELS_MIN) -> None:
        self.days_shown = days_shown
        self.labels_min = labels_min
        self._days: defaultdict[str, dict[int, _Day]] = defaultdict(dict)

    def observe(
        self,
        model: str,
        scores: ArrayLike,
        is_fraud: ArrayLike,
        event_time_ms: ArrayLike,
        training_offsets: ArrayLike,
    ) -> None:
        """Take labelled events: what versions of a model had said, and what was true."""
        score, fraud = columns(scores, is_fraud)
        day = np.asarray(event_time_ms, np.int64) // DAY_MS
        offset = np.asarray(training_offsets, np.int64)
        for number in np.unique(day).tolist():
            rows = day == number
            kept = self._days[model].setdefault(number, _Day())
            kept.add(score[rows], fraud[rows])
            kept.note(offset[rows])
        self._forget(model)

    def correct(self, model: str, score: float, event_time_ms: int, *, is_fraud: bool) -> None:
        """Let the verdict on one event be the other one; nothing where the first was not seen."""
        day = self._days[model].get(event_time_ms // DAY_MS)
        given, before = np.array([score]), np.array([not is_fraud])
        if day is not None and day.knows(given, before):
            day.add(given, before, sign=-1)
            day.add(given, ~before)

    def shown(self, model: str) -> list[DayQuality]:
        """Give the newest days that have enough labels, oldest first."""
        days = self._days.get(model, {})
        enough = sorted(number for number in days if days[number].labels >= self.labels_min)
        return [_quality(number, days[number]) for number in enough[-self.days_shown :]]

    def _forget(self, model: str) -> None:
        days = self._days[model]
        for old in sorted(days)[:-DAYS_KEPT]:
            del days[old]


def _quality(number: int, day: _Day) -> DayQuality:
    genuine, frauds = day.bins.sum(axis=1).tolist()
    return DayQuality(
        day=f"{datetime.fromtimestamp(number * DAY_MS / 1000, UTC):%Y-%m-%d}",
        labels=genuine + frauds,
        frauds=frauds,
        log_loss=day.log_loss_sum / (genuine + frauds),
        brier=day.brier_sum / (genuine + frauds),
        average_precision=_average_precision(day.bins) if genuine > 0 and frauds > 0 else None,
        offset_first=day.offset_first or 0,
        offset_last=day.offset_last,
    )


def _average_precision(bins: Counts) -> float:
    """Give the average precision of scores that are told apart by their bin alone."""
    genuine, frauds = bins[:, ::-1]
    found = np.cumsum(frauds)
    named = np.maximum(found + np.cumsum(genuine), 1)
    return float(np.sum(frauds / max(found[-1], 1) * found / named))


def _bin(scores: Floats) -> Counts:
    with np.errstate(divide="ignore"):
        odds = np.log(scores) - np.log1p(-scores)
    share = (np.clip(odds, -LOG_ODDS_MAX, LOG_ODDS_MAX) + LOG_ODDS_MAX) / (2 * LOG_ODDS_MAX)
    place: Counts = (share * (SCORE_BINS - 1)).astype(np.int64)
    return place
