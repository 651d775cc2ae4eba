"""What is caught by those who can look at so many events: recall, and the money behind it.

A team reviews a number of alerts a day, whatever the scores are, so quality is judged at that
budget: the events with the highest scores of each UTC day, of equal ones the earlier.

>>> scores, is_fraud = np.array([0.9, 0.8, 0.1, 0.2]), np.array([True, False, True, True])
>>> recall_in_top(scores, is_fraud, top=2), recall_in_top(scores, is_fraud, top=3)
(0.333, 0.667)
>>> day = np.array([0, 0, 0, 1])
>>> in_budget(scores, day, a_day=1).tolist()
[True, False, False, True]
"""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.cards import starts_of

# Alerts that a small team looks at in a day.
ALERTS_A_DAY = 100
# One event in a hundred is what banks are said to be able to stop.
ALERT_RATE = 0.01

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def in_budget(scores: Floats, day: Ints | NDArray[np.int32], *, a_day: int | Ints) -> Bools:
    """Mark the events with the highest scores of each day; `a_day` of them, or all there are.

    `a_day` may be a number for each day, where days are numbered from 0.
    """
    order = np.lexsort((-scores, day))
    starts = starts_of(day[order])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    marked = np.zeros(len(scores), np.bool_)
    budget = a_day if isinstance(a_day, int) else a_day[day[order]]
    marked[order[rank < budget]] = True
    return marked


def in_top(scores: Floats, *, top: int) -> Bools:
    """Mark the `top` events with the highest scores of all."""
    marked = np.zeros(len(scores), np.bool_)
    marked[np.argsort(-scores, kind="stable")[:top]] = True
    return marked


def top_of_rate(events: int, rate: float = ALERT_RATE) -> int:
    """Give how many alerts an alert rate allows; at least one."""
    return max(1, math.ceil(events * rate))


def recall(marked: Bools, is_fraud: Bools) -> float | None:
    """Give the share of the frauds that are marked; without a fraud there is none."""
    frauds = int(is_fraud.sum())
    return int((marked & is_fraud).sum()) / frauds if frauds else None


def recall_in_top(scores: Floats, is_fraud: Bools, *, top: int) -> float | None:
    """Give the share of the frauds among the `top` highest scores."""
    return recall(in_top(scores, top=top), is_fraud)


def value_detected(marked: Bools, is_fraud: Bools, amount_minor: Ints) -> float | None:
    """Give the share of the frauds' money that is marked; where there is none, nothing."""
    money = int(amount_minor[is_fraud].sum())
    return int(amount_minor[marked & is_fraud].sum()) / money if money else None
