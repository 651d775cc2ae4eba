"""Which part of the decisions has a label yet: the number that belongs beside every quality.

A fraud is told of after days or months. Quality over fresh decisions is that of the few that an
analyst looked at, so a fresh low (or high) number must not be read as a fall (or a rise).

>>> maturity = LabelMaturity()
>>> for moment in (0, 1, 30 * DAY_MS):
...     maturity.observe_decision(moment)
>>> maturity.observe_label(1)
>>> maturity.share(7)
LabelledShare(age_days=7, decisions=2, labelled=1)
"""

from dataclasses import dataclass

from pipeline.durations import DAY_MS

# A chargeback may take 120 days; half as long again leaves room for a late one.
DAYS_KEPT = 180


@dataclass(frozen=True, slots=True)
class LabelledShare:
    """Of the decisions at least `age_days` old, how many have a label."""

    age_days: int
    decisions: int
    labelled: int


class LabelMaturity:
    """How many decisions of each UTC day have a label; beyond `DAYS_KEPT` the oldest day goes."""

    def __init__(self) -> None:
        self._decisions: dict[int, int] = {}
        self._labelled: dict[int, int] = {}
        self._newest = 0

    def observe_decision(self, event_time_ms: int) -> None:
        """Take one decision."""
        day = event_time_ms // DAY_MS
        if day not in self._decisions:
            self._open(day)
        if day in self._decisions:
            self._decisions[day] += 1

    def observe_label(self, event_time_ms: int) -> None:
        """Take the first label of a decision; a day that was not seen is left out."""
        day = event_time_ms // DAY_MS
        if day in self._labelled:
            self._labelled[day] += 1

    def share(self, age_days: int) -> LabelledShare:
        """Give the counts over the days that are at least so old."""
        days = [day for day in self._decisions if day <= self._newest - age_days]
        decisions = sum(self._decisions[day] for day in days)
        # Started in the middle of a stream, labels of decisions that were not seen come as well.
        labelled = sum(min(self._labelled[day], self._decisions[day]) for day in days)
        return LabelledShare(age_days, decisions, labelled)

    def _open(self, day: int) -> None:
        self._newest = max(self._newest, day)
        self._decisions[day] = self._labelled[day] = 0
        for old in [known for known in self._decisions if known <= self._newest - DAYS_KEPT]:
            del self._decisions[old], self._labelled[old]
