"""Event times that do not come in order, at one card and one terminal; hours from a Monday on."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ordering:
    """Event times, in hours, in the order of their log."""

    name: str
    hours: Sequence[float]


ORDERINGS = (
    Ordering("in order", [0, 1, 2, 3]),
    Ordering("the wrong way round", [3, 2, 1, 0]),
    Ordering("all at once", [1, 1, 1, 1]),
    Ordering("one that is late by a month", [720, 721, 1, 722]),
    Ordering("one that is ahead by five minutes", [0, 1.08, 1, 1.02]),
    Ordering("forth and back", [0, 30, 1, 29, 2, 28]),
    Ordering("across the end of a day", [23.99, 24.01, 23.98, 24.02]),
    Ordering("late by as long as a ring of hours", [25, 0, 24, 49]),
    Ordering("late by as long as a ring of days", [31 * 24, 0, 30 * 24, 62 * 24]),
)
