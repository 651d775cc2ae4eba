"""The fifteen features of the Fraud Detection Handbook, for a whole stream at once.

A customer's window of a day ends with the event itself, which is in it, as in the Handbook. A
terminal's ends a label delay earlier, so that its frauds are known; without a delay, it ends before
the event. Counts are differences of running sums, found by binary search in one column that holds
key and time together.

References
----------
Le Borgne, Siblini, Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud
Detection, chapter 3, section 4. Université Libre de Bruxelles, 2022.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOW_DAYS = (1, 7, 30)
NIGHT_HOUR_MAX = 6
SATURDAY = 5
# The epoch began on a Thursday.
EPOCH_WEEKDAY = 3
NAMES = (
    "amount",
    "during_weekend",
    "during_night",
    *(f"customer_{what}_{days}d" for days in WINDOW_DAYS for what in ("count", "mean_amount")),
    *(f"terminal_{what}_{days}d" for days in WINDOW_DAYS for what in ("count", "risk")),
)


def codes(ids: Sequence[Sequence[str]]) -> Ints:
    """Number ids in the order of their first event."""
    return pd.factorize(np.array(list(chain.from_iterable(ids)), dtype=object))[0].astype(np.int64)


def features(
    times_ms: Ints,
    customer: Ints,
    terminal: Ints,
    amounts: Floats,
    is_fraud: NDArray[np.int8],
    *,
    delay_ms: int,
) -> NDArray[np.float32]:
    """Give the features, float32 of shape (events, 15); events are in time order."""
    out = np.empty((len(times_ms), len(NAMES)), dtype=np.float32)
    out[:, 0] = amounts
    out[:, 1] = (times_ms // DAY_MS + EPOCH_WEEKDAY) % 7 >= SATURDAY
    out[:, 2] = times_ms % DAY_MS // HOUR_MS <= NIGHT_HOUR_MAX
    by_customer, by_terminal = (
        _Sums(customer, times_ms, amounts),
        _Sums(terminal, times_ms, (is_fraud == 1).astype(np.float64)),
    )
    for place, days in enumerate(WINDOW_DAYS):
        column = 3 + 2 * place
        count, total = by_customer.until_now(days * DAY_MS)
        out[:, column], out[:, column + 1] = count, total / count
        column += 2 * len(WINDOW_DAYS)
        count, frauds = by_terminal.before(delay_ms, days * DAY_MS)
        out[:, column], out[:, column + 1] = count, frauds / np.maximum(count, 1)
    return out


class _Sums:
    """Counts and sums of a value over a key's past, in any window of time."""

    def __init__(self, key: Ints, times_ms: Ints, values: Floats) -> None:
        self._order = np.argsort(key, kind="stable")
        self._first_ms = int(times_ms[0]) if len(times_ms) else 0
        self._span = int(times_ms[-1]) - self._first_ms + 1 if len(times_ms) else 1
        self._key, self._time = key[self._order], times_ms[self._order] - self._first_ms
        self._places = self._key * self._span + self._time
        self._running = np.concatenate([[0.0], np.cumsum(values[self._order])])

    def until_now(self, window_ms: int) -> tuple[Floats, Floats]:
        """Count and sum what came within the window, the event itself included."""
        return self._between(self._at(window_ms), np.arange(1, len(self._key) + 1))

    def before(self, delay_ms: int, window_ms: int) -> tuple[Floats, Floats]:
        """Count and sum what came in the window that ended so long before the event."""
        until = self._at(delay_ms, side="right" if delay_ms else "left")
        return self._between(self._at(delay_ms + window_ms), until)

    def _at(self, back_ms: int, side: str = "right") -> Ints:
        """Give the place of the first event of the key that is later than so long before."""
        start = self._key * self._span
        wanted = start + np.maximum(self._time - back_ms, -1)
        # The time before all times of a key is after the last one of the key before it.
        found = np.searchsorted(self._places, np.maximum(wanted, start), side=side)  # type: ignore[call-overload]
        first = np.searchsorted(self._places, start, side="left")
        return np.where(wanted < start, first, found)

    def _between(self, start: Ints, stop: Ints) -> tuple[Floats, Floats]:
        count, total = np.empty(len(start)), np.empty(len(start))
        count[self._order] = stop - start
        total[self._order] = self._running[stop] - self._running[start]
        return count, total
