"""Card precision as labels arrive: of a day's most suspicious cards, how many were compromised.

This is the number that a team of investigators feels: they can call so many card holders a day.
Only the top of each day is kept, which is exact: a card that falls out lies below as many others as
are kept, and their scores of the day can only rise.

>>> precision = CardPrecision(top=2, mature_days=7)
>>> for card, score in (("c1", 0.9), ("c2", 0.1), ("c3", 0.8)):
...     precision.observe_decision(0, card, score)
>>> precision.observe_label(0, "c1", is_fraud=True)
>>> precision.value is None          # the labels of the day are not there yet
True
>>> precision.observe_decision(7 * DAY_MS, "c1", 0.2)
>>> precision.value, precision.days
(0.5, 1)
"""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.durations import DAY_MS
from pipeline.quality.cards import CARDS_TOP

# A day counts when most of its labels can be there; the mean is over the mature days kept.
MATURE_DAYS = 7
DAYS_KEPT = 37
# Beyond this many cards with a fraud on one day, further ones are not remembered.
COMPROMISED_MAX = 20_000


@dataclass(slots=True)
class _Day:
    highest: dict[str, float] = field(default_factory=dict)
    frauds: Counter[str] = field(default_factory=Counter)
    # Cards rank by score, then by id; the last of a full top, for the quick refusal of most.
    last: tuple[float, str] | None = None

    def hits(self) -> int:
        return sum(1 for card in self.highest if self.frauds[card] > 0)


class CardPrecision:
    """The mean over mature UTC days of the share of compromised cards among the `top` suspicious.

    Parameters
    ----------
    top
        Cards of a day that are looked at; a day with fewer is still divided by this.
    mature_days
        Age from which a day counts.
    days_kept
        Days remembered, the youngest; an event or label of an older one changes nothing.
    """

    def __init__(
        self, *, top: int = CARDS_TOP, mature_days: int = MATURE_DAYS, days_kept: int = DAYS_KEPT
    ) -> None:
        assert 0 < mature_days < days_kept, (mature_days, days_kept)
        self.top = top
        self.mature_days = mature_days
        self.days_kept = days_kept
        self._days: dict[int, _Day] = {}
        self._newest = -1

    @property
    def value(self) -> float | None:
        """The card precision, or `None` before the first mature day."""
        mature = self._mature()
        return sum(day.hits() for day in mature) / (self.top * len(mature)) if mature else None

    @property
    def days(self) -> int:
        """Mature days that the value is the mean of."""
        return len(self._mature())

    def observe_decision(self, event_time_ms: int, card: str, score: float) -> None:
        """Take one decision."""
        number = event_time_ms // DAY_MS
        day = self._days.get(number) or self._open(number)
        if day is None or (day.last is not None and (-score, card) >= day.last):
            return
        day.highest[card] = max(score, day.highest.get(card, 0.0))
        self._keep_top(day)

    def observe_label(
        self, event_time_ms: int, card: str, *, is_fraud: bool, corrects: bool = False
    ) -> None:
        """Take one label; with `corrects` it takes back the opposite verdict on the same event."""
        day = self._days.get(event_time_ms // DAY_MS)
        if day is None or (card not in day.frauds and len(day.frauds) >= COMPROMISED_MAX):
            return
        if is_fraud:
            day.frauds[card] += 1
        elif corrects:
            day.frauds[card] -= 1

    def _mature(self) -> list[_Day]:
        youngest = self._newest - self.mature_days
        return [day for number, day in self._days.items() if number <= youngest]

    def _open(self, number: int) -> _Day | None:
        if number <= self._newest - self.days_kept:
            return None
        self._days[number] = day = _Day()
        self._newest = max(self._newest, number)
        for old in [known for known in self._days if known <= self._newest - self.days_kept]:
            del self._days[old]
        return day

    def _keep_top(self, day: _Day) -> None:
        if len(day.highest) < self.top:
            return
        ranks = sorted((-score, card) for card, score in day.highest.items())
        for _, card in ranks[self.top :]:
            del day.highest[card]
        day.last = ranks[self.top - 1]
