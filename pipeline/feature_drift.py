"""Whether the features have changed: PSI of each against a pinned reference.

It needs no label and names what moved. Traffic of a night differs from traffic of a noon, and a
Sunday from a Monday, so the reference is kept for each hour of the week and the window is compared
with a mix of the same hours: the calendar alone moves nothing. A value that is missing (NaN) has a
bin of its own, so has one below or above all that the reference has seen.

>>> psi = FeaturePsi(["amount"], reference_events=2_000, window_events=1_000)
>>> moments = np.arange(3_000) * (7 * DAY_MS // 2_000)
>>> psi.observe(np.sin(np.arange(3_000.0))[:, None], moments)
>>> psi.is_pinned, psi.events, band(psi.values["amount"])
(True, 1000, 'stable')
>>> psi.observe(np.full((1_000, 1), np.nan), moments[-1000:])
>>> band(psi.values["amount"])
'drift'
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.drift import PSI_BINS, PSI_REFERENCE_EVENTS, PSI_WINDOW_EVENTS, population_stability
from pipeline.durations import DAY_MS, HOUR_MS

Band = Literal["stable", "warning", "drift"]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Codes = NDArray[np.uint8]

# The usual bands of PSI: below the first nothing has happened, from the second on something has.
PSI_WARNING_MIN = 0.1
PSI_DRIFT_MIN = 0.25

REFERENCE_DAYS = 7
HOURS_OF_WEEK = 168
# An hour of the week that the reference has not seen is compared with the whole of it.
HOUR_PRIOR_EVENTS = 0.01
# Below the least value of the reference, above the greatest, missing.
BINS_OF_THEIR_OWN = 3


def band(psi: float) -> Band:
    """Say in which of the usual bands an index lies."""
    if psi < PSI_WARNING_MIN:
        return "stable"
    return "warning" if psi < PSI_DRIFT_MIN else "drift"


class FeaturePsi:
    """Population stability index of each feature: the latest window against a pinned reference.

    The reference is the first seven days that are given, and goes on until it has enough events.
    Its first `reference_events` rows set the bins. Then it is held, and the window begins.
    Memory is fixed: a histogram for each hour of the week, and one byte for each value of the
    window.

    Parameters
    ----------
    names
        Names of the features, in the order of their columns.
    reference_events, window_events
        Events in the reference at least, and in the window; there the oldest of the window goes.
    bins
        Bins of about equal count; a value that fills one by itself has it alone.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        reference_events: int = PSI_REFERENCE_EVENTS,
        window_events: int = PSI_WINDOW_EVENTS,
        bins: int = PSI_BINS,
    ) -> None:
        assert min(reference_events, window_events, bins) > 0
        self.names = tuple(names)
        self.reference_events = reference_events
        self.window_events = window_events
        self.bins = bins
        self._width = bins + BINS_OF_THEIR_OWN
        self._sample: list[tuple[Floats, Ints]] = []
        self._edges: list[Floats] = []
        self._end_ms: int | None = None
        self._reference_count = 0
        self._reference = np.zeros((HOURS_OF_WEEK, len(self.names), self._width), np.int64)
        self.is_pinned = False
        self._seen = 0
        self._codes: Codes = np.zeros((window_events, len(self.names)), np.uint8)
        self._hours: Codes = np.zeros(window_events, np.uint8)
        self._counts = np.zeros((len(self.names), self._width), np.int64)
        self._hour_counts = np.zeros(HOURS_OF_WEEK, np.int64)

    @property
    def reference_count(self) -> int:
        """Events in the reference now."""
        return self._reference_count

    @property
    def events(self) -> int:
        """Events in the window now."""
        return min(self._seen, self.window_events)

    @property
    def values(self) -> dict[str, float]:
        """The index of each feature; empty while the window is not full: it would be chance."""
        if self._seen < self.window_events:
            return {}
        found = population_stability(self._expected(), self._counts)
        return dict(zip(self.names, found.tolist(), strict=True))

    def observe(self, features: NDArray[np.floating], event_time_ms: NDArray[np.int64]) -> None:
        """Take features, one row an event, in the order of their decisions."""
        assert features.shape == (len(event_time_ms), len(self.names)), features.shape
        rows, times = np.asarray(features, np.float32), np.asarray(event_time_ms, np.int64)
        if not self.is_pinned and len(rows):
            taken = self._take_reference(rows, times)
            rows, times = rows[taken:], times[taken:]
        if len(rows):
            self._slide(rows, times)

    def _take_reference(self, rows: Floats, times: Ints) -> int:
        """Count rows into the reference and give how many: all, unless it became whole."""
        if self._end_ms is None:
            self._end_ms = int(times[0]) + REFERENCE_DAYS * DAY_MS
        may_end = (times >= self._end_ms) & (
            self._reference_count + np.arange(len(rows)) >= self.reference_events
        )
        taken = int(np.argmax(may_end)) if may_end.any() else len(rows)
        self._sample.append((rows[:taken].copy(), times[:taken].copy()))
        self._reference_count += taken
        if self._reference_count >= self.reference_events:
            self._set_bins()
            for sampled, moments in self._sample:
                self._count_reference(sampled, moments)
            self._sample = []
        self.is_pinned = taken < len(rows)
        return taken

    def _set_bins(self) -> None:
        if not self._edges:
            sample = np.concatenate([rows for rows, _ in self._sample])[: self.reference_events]
            self._edges = [_edges(column, self.bins) for column in sample.T]

    def _count_reference(self, rows: Floats, times: Ints) -> None:
        codes = self._code(rows)
        for hour in np.unique(_hours(times)):
            self._reference[hour] += self._histogram(codes[_hours(times) == hour])

    def _slide(self, rows: Floats, times: Ints) -> None:
        rows, times = rows[-self.window_events :], times[-self.window_events :]
        codes, hours = self._code(rows), _hours(times)
        number = self._seen + np.arange(len(rows))
        place = number % self.window_events
        leaving = place[number >= self.window_events]
        self._counts -= self._histogram(self._codes[leaving])
        self._hour_counts -= np.bincount(self._hours[leaving], minlength=HOURS_OF_WEEK)
        self._codes[place], self._hours[place] = codes, hours
        self._counts += self._histogram(codes)
        self._hour_counts += np.bincount(hours, minlength=HOURS_OF_WEEK)
        self._seen += len(rows)

    def _expected(self) -> NDArray[np.float64]:
        """Give the reference as a histogram of as many events, at the same hours, as the window."""
        whole = self._reference.sum(axis=0) / max(self._reference_count, 1)
        by_hour = self._reference + HOUR_PRIOR_EVENTS * whole
        by_hour /= by_hour.sum(axis=2, keepdims=True)
        expected: NDArray[np.float64] = np.tensordot(self._hour_counts, by_hour, axes=1)
        return expected

    def _code(self, rows: Floats) -> Codes:
        codes = np.empty(rows.shape, np.uint8)
        for column, edges in enumerate(self._edges):
            codes[:, column] = np.searchsorted(edges, rows[:, column], side="right")
        codes[np.isnan(rows)] = self._width - 1
        return codes

    def _histogram(self, codes: Codes) -> NDArray[np.int64]:
        flat = codes + np.arange(len(self.names)) * self._width
        found = np.bincount(flat.ravel(), minlength=len(self.names) * self._width)
        return found.reshape(len(self.names), self._width)


def _hours(times: Ints) -> Codes:
    return (times // HOUR_MS % HOURS_OF_WEEK).astype(np.uint8)


def _edges(column: Floats, bins: int) -> Floats:
    """Give the least value of each bin, and the first value beyond the greatest.

    >>> [edge.item() for edge in _edges(np.float32([0, 0, 0, 0, 0, 0, 0, 0, 0, 5]), 2)]
    [0.0, 5.0, 5.0000005]
    >>> [edge.item() for edge in _edges(np.float32([1, 2, 3, 4]), 2)]
    [1.0, 3.0, 4.0000005]
    """
    value, count = np.unique(column[~np.isnan(column)], return_counts=True)
    if not len(value):
        return value
    begun = (np.cumsum(count) - count) * bins // count.sum()
    first = value[np.flatnonzero(np.diff(begun, prepend=-1))]
    beyond = np.nextafter(value[-1], np.float32(np.inf))
    return np.append(first, beyond)
