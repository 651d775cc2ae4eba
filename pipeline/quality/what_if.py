"""What other thresholds would have done over the judged period: alerts, losses, insulted customers.

The scores stand; only where they are cut is asked anew. What a review or a decline would have
changed in the stream (a card that is blocked defrauds no more, a label that is never told) is not
known, so an answer is exact for thresholds near those in force and hopeful far from them.

>>> told = what_if(
...     np.array([0.9, 0.4, 0.8, 0.1]), np.array([True, True, False, False]),
...     np.array([5000, 700, 2000, 300]), days=2.0, review_score_min=0.3, decline_score_min=0.7,
... )
>>> told.alerts_a_day, told.frauds_declined, told.frauds_reviewed, told.genuine_declined
(0.5, 1, 1, 1)
>>> told.caught_minor, told.missed_minor, told.held_up_minor
(5700, 0, 2000)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# Thresholds of a sweep, from the share of events that is reviewed or declined at each.
SWEEP_RATES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which score on an event is reviewed, and declined."""

    review_score_min: float
    decline_score_min: float

    @classmethod
    def parsed(cls, text: str, *, decline_score_min: float) -> "Thresholds":
        """Read `REVIEW` or `REVIEW:DECLINE`; without the latter, the one in force.

        >>> Thresholds.parsed("0.2:0.6", decline_score_min=0.7)
        Thresholds(review_score_min=0.2, decline_score_min=0.6)
        """
        review, colon, decline = text.partition(":")
        try:
            found = cls(float(review), float(decline) if colon else decline_score_min)
        except ValueError as error:
            raise SettingError(
                f"--what-if: expected REVIEW or REVIEW:DECLINE, as in 0.2:0.6 (got {text!r})"
            ) from error
        if not 0.0 < found.review_score_min <= found.decline_score_min <= 1.0:
            raise SettingError(
                f"--what-if {text!r}: the review threshold ({found.review_score_min}) must lie "
                f"above 0 and at most at the decline threshold ({found.decline_score_min}), which "
                "is at most 1"
            )
        return found


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What two thresholds would have done to the labelled events of a period.

    Parameters
    ----------
    alerts_a_day
        Reviews a day.
    genuine_declined
        Genuine events that would have been declined: the customers that are insulted.
    caught_minor, missed_minor
        Money of the frauds that are reviewed or declined, and of the others.
    held_up_minor
        Genuine money that is reviewed or declined.
    """

    review_score_min: float
    decline_score_min: float
    events: int
    frauds: int
    reviewed: int
    declined: int
    alerts_a_day: float
    frauds_reviewed: int
    frauds_declined: int
    frauds_missed: int
    genuine_reviewed: int
    genuine_declined: int
    caught_minor: int
    missed_minor: int
    held_up_minor: int


def what_if(
    scores: Floats,
    is_fraud: Bools,
    amount_minor: Ints,
    *,
    days: float,
    review_score_min: float,
    decline_score_min: float,
) -> WhatIf:
    """Say what two thresholds would have done over so many days."""
    declined = scores >= decline_score_min
    reviewed = (scores >= review_score_min) & ~declined
    stopped = reviewed | declined
    frauds_reviewed, frauds_declined = _count(reviewed & is_fraud), _count(declined & is_fraud)
    return WhatIf(
        review_score_min=review_score_min,
        decline_score_min=decline_score_min,
        events=len(scores),
        frauds=_count(is_fraud),
        reviewed=_count(reviewed),
        declined=_count(declined),
        alerts_a_day=_count(reviewed) / days if days else 0.0,
        frauds_reviewed=frauds_reviewed,
        frauds_declined=frauds_declined,
        frauds_missed=_count(is_fraud) - frauds_reviewed - frauds_declined,
        genuine_reviewed=_count(reviewed) - frauds_reviewed,
        genuine_declined=_count(declined) - frauds_declined,
        caught_minor=int(amount_minor[stopped & is_fraud].sum()),
        missed_minor=int(amount_minor[~stopped & is_fraud].sum()),
        held_up_minor=int(amount_minor[stopped & ~is_fraud].sum()),
    )


def sweep(scores: Floats, *, decline_score_min: float) -> Iterator[Thresholds]:
    """Give thresholds for a review such that a growing share of the events is stopped.

    The threshold for a decline stands, and falls with that for a review where that is higher.
    """
    if not len(scores):
        return
    for review in np.unique(np.quantile(scores, [1.0 - rate for rate in SWEEP_RATES]))[::-1]:
        if review > 0.0:
            yield Thresholds(float(review), max(float(review), decline_score_min))


def _count(rows: Bools) -> int:
    return int(rows.sum())
