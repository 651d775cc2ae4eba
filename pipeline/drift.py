"""Whether the stream has changed: the error of the model (ADWIN, Page-Hinkley), its scores (PSI).

The error is watched where labels come, and so names concept drift days late; the distribution of
the scores needs no label and moves at once, but does not say whether the model is wrong. Both are
kept, each with its count. What became of each feature stands in `feature_drift.py`.

>>> detector = ErrorDrift()
>>> scores, verdicts = [0.1] * 5000, [False] * 3000 + [True, False] * 1000
>>> detector.observe(scores, verdicts, range(5000))
>>> [(found.detector, found.direction, found.event_time_ms) for found in detector.detections]
[('page_hinkley', 'rise', 3012), ('adwin', 'rise', 3039)]
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from river.drift import ADWIN, PageHinkley

from pipeline.evaluation import squared_errors

Direction = Literal["rise", "fall"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
Detector = Literal["adwin", "page_hinkley"]
DETECTORS: tuple[Detector, ...] = get_args(Detector)

# River's default: the chance that ADWIN cuts a window in which nothing has changed.
DELTA = 0.002
# Page-Hinkley adds up how far errors lie above their mean by more than the tolerance, and finds a
# change where the sum reaches the threshold; both in standard deviations of the error. A mean error
# that doubles from 0.005 was found after 7,000 labels, one that rose to 0.02 after 1,700; on errors
# of one mean it found a change once in a million and a half. Frauds are few and come together by
# chance: with a threshold of 300 that was once in 200,000.
PAGE_HINKLEY_TOLERANCE = 0.05
PAGE_HINKLEY_THRESHOLD = 500.0
# River's default forgets within 10,000 labels, which is sooner than a small rise adds up.
PAGE_HINKLEY_MEMORY = 1 - 1e-5
# The deviation is that of so many labels after the start, or after the last change.
SCALE_ERRORS = 2_000
# Errors that are all alike have none.
SCALE_MIN = 0.01
# The mean error after a change that Page-Hinkley found is that of so many labels up to it.
RECENT_ERRORS = 500
DETECTIONS_KEPT = 100

PSI_REFERENCE_EVENTS = 10_000
PSI_WINDOW_EVENTS = 10_000
PSI_BINS = 10
# Half an event in every bin: an empty bin is then rare, not impossible, and its logarithm finite.
PSI_SMOOTHING = 0.5


@dataclass(frozen=True, slots=True)
class Detection:
    """A change of the mean error: who found it, at the event whose label showed it."""

    detector: Detector
    direction: Direction
    event_time_ms: int
    error_before: float
    error_after: float


class _Watch(Protocol):
    """One detector: takes an error, and gives the mean before and after a change it found."""

    def update(self, error: float) -> tuple[float, float] | None: ...


class _Adwin:
    """Keeps a window of whatever length has no change in it, and cuts it where there is one."""

    def __init__(self, delta: float) -> None:
        self.river = ADWIN(delta=delta)  # type: ignore[no-untyped-call]

    def update(self, error: float) -> tuple[float, float] | None:
        before = float(self.river.estimation)
        self.river.update(error)  # type: ignore[no-untyped-call]
        return (before, float(self.river.estimation)) if self.river.drift_detected else None


class _PageHinkley:
    """Adds up deviations from the mean since the last change, a sum for either direction.

    Frauds are few, so the spread of the error differs from stream to stream by much: it is measured
    first, and errors are taken in units of it.
    """

    def __init__(self) -> None:
        self._river = {
            direction: PageHinkley(
                delta=PAGE_HINKLEY_TOLERANCE,
                threshold=PAGE_HINKLEY_THRESHOLD,
                alpha=PAGE_HINKLEY_MEMORY,
                mode="up" if direction == "rise" else "down",
            )
            for direction in DIRECTIONS
        }
        self._start()

    def _start(self) -> None:
        self._sum, self._events = 0.0, 0
        self._recent: deque[float] = deque(maxlen=RECENT_ERRORS)
        self._first: list[float] = []
        self._scale: float | None = None

    def update(self, error: float) -> tuple[float, float] | None:
        self._sum += error
        self._events += 1
        self._recent.append(error)
        if self._scale is None:
            self._measure(error)
            return None
        # Both are told, always: one that has found a change begins anew by itself.
        found = [self._found(direction, error / self._scale) for direction in DIRECTIONS]
        return self._change() if any(found) else None

    def _measure(self, error: float) -> None:
        self._first.append(error)
        if len(self._first) == SCALE_ERRORS:
            self._scale = max(float(np.std(self._first)), SCALE_MIN)
            self._first = []

    def _found(self, direction: Direction, error: float) -> bool:
        self._river[direction].update(error)  # type: ignore[no-untyped-call]
        return bool(self._river[direction].drift_detected)

    def _change(self) -> tuple[float, float]:
        recent = sum(self._recent)
        earlier = self._events - len(self._recent)
        after = recent / len(self._recent)
        before = (self._sum - recent) / earlier if earlier else self._sum / self._events
        self._start()
        return before, after


class ErrorDrift:
    """ADWIN and Page-Hinkley on the error of each labelled event.

    The error is the squared one: a proper score that lies in 0 to 1, as ADWIN's bound asks. A rise
    is drift; a fall is a model that got better, which both find as well. Each has its own count.
    ADWIN sees a sudden change sooner, Page-Hinkley a small one that lasts.

    Parameters
    ----------
    delta
        The smaller, the fewer false alarms of ADWIN and the later the true ones.

    Examples
    --------
    >>> detector = ErrorDrift()
    >>> detector.observe([0.5] * 1000 + [0.01] * 1000, [False] * 2000, range(2000))
    >>> detector.counts["adwin", "fall"], detector.counts["adwin", "rise"]
    (1, 0)
    """

    def __init__(self, delta: float = DELTA) -> None:
        self.delta = delta
        self._adwin = _Adwin(delta)
        self._watches: dict[Detector, _Watch] = {
            "adwin": self._adwin,
            "page_hinkley": _PageHinkley(),
        }
        self._events = 0
        self._counts = {(name, way): 0 for name in DETECTORS for way in DIRECTIONS}
        self._last: dict[tuple[Detector, Direction], Detection] = {}
        self._detections: deque[Detection] = deque(maxlen=DETECTIONS_KEPT)

    @property
    def events(self) -> int:
        """Labelled events since the start."""
        return self._events

    @property
    def counts(self) -> dict[tuple[Detector, Direction], int]:
        """Detections since the start by detector and direction."""
        return dict(self._counts)

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The latest detections, oldest first; beyond `DETECTIONS_KEPT` the oldest goes."""
        return tuple(self._detections)

    @property
    def last(self) -> dict[tuple[Detector, Direction], Detection]:
        """The last detection by detector and direction; without one there is no key."""
        return dict(self._last)

    @property
    def error_mean(self) -> float | None:
        """The mean error since the last change, as ADWIN sees it."""
        river = self._adwin.river
        return float(river.estimation) if river.width else None

    @property
    def window_events(self) -> int:
        """Labelled events since the last change, as ADWIN sees it."""
        return int(self._adwin.river.width)

    def observe(self, scores: ArrayLike, is_fraud: ArrayLike, event_time_ms: Iterable[int]) -> None:
        """Take labelled events in the order of their labels."""
        errors = squared_errors(np.asarray(scores, np.float64), np.asarray(is_fraud, np.bool_))
        for error, moment in zip(errors.tolist(), event_time_ms, strict=True):
            self._observe_one(error, int(moment))

    def _observe_one(self, error: float, event_time_ms: int) -> None:
        self._events += 1
        for name, watch in self._watches.items():
            change = watch.update(error)
            if change is not None:
                self._record(name, change, event_time_ms)

    def _record(self, name: Detector, change: tuple[float, float], event_time_ms: int) -> None:
        before, after = change
        direction: Direction = "rise" if after > before else "fall"
        found = Detection(name, direction, event_time_ms, before, after)
        self._counts[name, direction] += 1
        self._last[name, direction] = found
        self._detections.append(found)


class ScorePsi:
    """Population stability index of the score: the latest window against a pinned reference.

    The first `reference_events` scores are the reference; its quantiles are the bins. Usual bands:
    below 0.1 stable, above 0.25 changed. It is `None` until the reference is whole and the window
    full: over a few events the index is mostly chance (about `2 * bins / events`).

    Parameters
    ----------
    reference_events, window_events
        Scores in the reference and in the window; at its limit the oldest of the window goes.
    bins
        Bins of equal count in the reference; equal scores share one, so there may be fewer.

    Examples
    --------
    >>> psi = ScorePsi(reference_events=1000, window_events=500)
    >>> psi.observe(np.linspace(0, 1, 1000))
    >>> psi.observe(np.linspace(0, 1, 500))
    >>> psi.value
    0.0000
    >>> psi.observe(np.linspace(0.5, 1, 500))
    >>> psi.value > 0.25
    True
    """

    def __init__(
        self,
        reference_events: int = PSI_REFERENCE_EVENTS,
        window_events: int = PSI_WINDOW_EVENTS,
        bins: int = PSI_BINS,
    ) -> None:
        assert min(reference_events, window_events, bins) > 0
        self.reference_events = reference_events
        self.window_events = window_events
        self.bins = bins
        self._reference: list[float] = []
        self._edges: NDArray[np.float64] | None = None
        self._expected: NDArray[np.intp] = np.zeros(0, np.intp)
        self._window: deque[int] = deque(maxlen=window_events)

    @property
    def events(self) -> int:
        """Scores in the window now."""
        return len(self._window)

    @property
    def reference_count(self) -> int:
        """Scores in the reference now."""
        return len(self._reference)

    @property
    def value(self) -> float | None:
        """The index, or `None` while there is too little to compare."""
        if self._edges is None or len(self._window) < self.window_events:
            return None
        actual = np.bincount(np.array(self._window), minlength=len(self._expected))
        return float(population_stability(self._expected, actual))

    def observe(self, scores: ArrayLike) -> None:
        """Take scores in the order in which they were given."""
        score = np.asarray(scores, np.float64)
        missing = self.reference_events - len(self._reference)
        if missing > 0:
            self._reference.extend(score[:missing].tolist())
            if len(self._reference) == self.reference_events:
                self._pin(np.array(self._reference))
        if self._edges is not None:
            self._window.extend(_codes(self._edges, score[max(missing, 0) :]).tolist())

    def _pin(self, reference: NDArray[np.float64]) -> None:
        quantiles = np.quantile(reference, np.arange(1, self.bins) / self.bins)
        self._edges = np.unique(quantiles)
        codes = _codes(self._edges, reference)
        self._expected = np.bincount(codes, minlength=len(self._edges) + 1)


def population_stability(expected: ArrayLike, actual: ArrayLike) -> NDArray[np.float64]:
    """Give the PSI of two histograms over the same bins, which are the last axis.

    >>> population_stability([[50, 50], [90, 10]], [[50, 50], [10, 90]])
    array([0. , 3.41])
    """
    shares = [_smoothed(np.asarray(counts, np.float64)) for counts in (expected, actual)]
    change = (shares[1] - shares[0]) * np.log(shares[1] / shares[0])
    psi: NDArray[np.float64] = np.sum(change, axis=-1)
    return psi


def _smoothed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = counts + PSI_SMOOTHING
    shares: NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _codes(edges: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.searchsorted(edges, scores, side="right")
