"""Whether the stream has changed: the error of the model (ADWIN), and its scores (PSI).

The error is watched where labels come, and so names concept drift days late; the distribution of
the scores needs no label and moves at once, but does not say whether the model is wrong. Both are
kept, each with its count.

>>> detector = ErrorDrift()
>>> scores, verdicts = [0.1] * 4000, [False] * 2000 + [True, False] * 1000
>>> detector.observe(scores, verdicts, range(4000))
>>> [(found.direction, found.event_time_ms) for found in detector.detections]
[('rise', 2047)]
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from river.drift import ADWIN

from pipeline.evaluation import squared_errors

Direction = Literal["rise", "fall"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

# River's default: the chance that ADWIN cuts a window in which nothing has changed.
DELTA = 0.002
DETECTIONS_KEPT = 100

PSI_REFERENCE_EVENTS = 10_000
PSI_WINDOW_EVENTS = 10_000
PSI_BINS = 10
# Half an event in every bin: an empty bin is then rare, not impossible, and its logarithm finite.
PSI_SMOOTHING = 0.5


@dataclass(frozen=True, slots=True)
class Detection:
    """A change of the mean error, at the event whose label showed it."""

    direction: Direction
    event_time_ms: int
    error_before: float
    error_after: float


class ErrorDrift:
    """ADWIN on the error of each labelled event.

    The error is the squared one: a proper score that lies in 0 to 1, as ADWIN's bound asks. A rise
    is drift; a fall is a model that got better, which ADWIN finds as well. Each has its own count.

    Parameters
    ----------
    delta
        The smaller, the fewer false alarms and the later the true ones.

    Examples
    --------
    >>> detector = ErrorDrift()
    >>> detector.observe([0.5] * 1000 + [0.01] * 1000, [False] * 2000, range(2000))
    >>> detector.counts
    {'rise': 0, 'fall': 1}
    """

    def __init__(self, delta: float = DELTA) -> None:
        self.delta = delta
        self._adwin = ADWIN(delta=delta)  # type: ignore[no-untyped-call]
        self._events = 0
        self._counts = dict.fromkeys(DIRECTIONS, 0)
        self._last_event_ms: dict[Direction, int] = {}
        self._detections: deque[Detection] = deque(maxlen=DETECTIONS_KEPT)

    @property
    def events(self) -> int:
        """Labelled events since the start."""
        return self._events

    @property
    def counts(self) -> dict[Direction, int]:
        """Detections since the start by direction."""
        return dict(self._counts)

    @property
    def detections(self) -> tuple[Detection, ...]:
        """The latest detections, oldest first; beyond `DETECTIONS_KEPT` the oldest goes."""
        return tuple(self._detections)

    @property
    def last_event_ms(self) -> dict[Direction, int]:
        """The moment of the last detection by direction; without one there is no key."""
        return dict(self._last_event_ms)

    @property
    def error_mean(self) -> float | None:
        """The mean error since the last change, as ADWIN sees it."""
        return float(self._adwin.estimation) if self._adwin.width else None

    @property
    def window_events(self) -> int:
        """Labelled events since the last change, as ADWIN sees it."""
        return int(self._adwin.width)

    def observe(self, scores: ArrayLike, is_fraud: ArrayLike, event_time_ms: Iterable[int]) -> None:
        """Take labelled events in the order of their labels."""
        errors = squared_errors(np.asarray(scores, np.float64), np.asarray(is_fraud, np.bool_))
        for error, moment in zip(errors.tolist(), event_time_ms, strict=True):
            self._observe_one(error, moment)

    def _observe_one(self, error: float, event_time_ms: int) -> None:
        self._events += 1
        before = self._adwin.estimation
        self._adwin.update(error)  # type: ignore[no-untyped-call]
        if self._adwin.drift_detected:
            self._record(float(before), float(self._adwin.estimation), event_time_ms)

    def _record(self, before: float, after: float, event_time_ms: int) -> None:
        direction: Direction = "rise" if after > before else "fall"
        self._counts[direction] += 1
        self._last_event_ms[direction] = int(event_time_ms)
        self._detections.append(Detection(direction, int(event_time_ms), before, after))


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
        return population_stability(self._expected, actual)

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


def population_stability(expected: ArrayLike, actual: ArrayLike) -> float:
    """Give the PSI of two histograms over the same bins.

    >>> population_stability([50, 50], [50, 50]), population_stability([90, 10], [10, 90])
    (0.0, 3.41)
    """
    shares = [_smoothed(np.asarray(counts, np.float64)) for counts in (expected, actual)]
    return float(np.sum((shares[1] - shares[0]) * np.log(shares[1] / shares[0])))


def _smoothed(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = counts + PSI_SMOOTHING
    shares: NDArray[np.float64] = raised / raised.sum()
    return shares


def _codes(edges: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.searchsorted(edges, scores, side="right")
