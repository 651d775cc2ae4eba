"""How far scores put the frauds above the genuine: the two areas, bit for bit as scikit-learn.

That library takes 80 bytes an event for it, and as much again to be imported; a stream has millions
of events. Here equal scores are one step as there, and what is added up is added in the same order.

>>> scores, is_fraud = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, False])
>>> found = steps(scores, is_fraud)
>>> found.scores.tolist(), found.genuine.tolist(), found.frauds.tolist()
([0.9, 0.8, 0.1], [0, 1, 2], [1, 2, 2])
>>> average_precision(scores, is_fraud), roc_auc(scores, is_fraud)
(0.833, 0.875)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.quality.cards import starts_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Steps:
    """The different scores from the highest down, and how many events score at least that."""

    scores: Floats
    genuine: Counts
    frauds: Counts

    @property
    def precision(self) -> Floats:
        """Which share of those events is fraud."""
        shares: Floats = self.frauds / (self.frauds + self.genuine)
        return shares


def steps(scores: Floats, is_fraud: Bools) -> Steps:
    """Count the events from each different score up; at least one is needed."""
    assert np.isfinite(scores).all(), "a score is a number"
    scores_of_frauds = np.sort(scores[is_fraud])
    different, below = _different(scores)
    frauds = _from(np.searchsorted(scores_of_frauds, different), len(scores_of_frauds))
    return Steps(different[::-1], _from(below, len(scores)) - frauds, frauds)


def _different(scores: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Give the different scores from the lowest up, and how many events are below each."""
    ordered = np.sort(scores)
    starts = starts_of(ordered)
    return ordered[starts], starts


def _from(below: NDArray[np.intp], count: int) -> Counts:
    """Give how many of so many are not below each score, from the highest score down."""
    return (count - below.astype(np.int32))[::-1]


def average_precision(scores: Floats, is_fraud: Bools) -> float | None:
    """Give the area under precision and recall."""
    if not _is_mixed(is_fraud):
        return None
    found = steps(scores, is_fraud)
    # From the lowest score up, since that is how scikit-learn adds.
    frauds = found.frauds[::-1]
    terms = np.diff(np.append(frauds, 0) / frauds[0])
    terms *= found.precision[::-1]
    return float(max(0.0, -terms.sum()))


def roc_auc(scores: Floats, is_fraud: Bools) -> float | None:
    """Give the probability that a fraud scores above a genuine event."""
    if not _is_mixed(is_fraud):
        return None
    found = steps(scores, is_fraud)
    corner = np.ones(len(found.frauds), np.bool_)
    # A point on a straight line adds nothing to the area but error.
    corner[1:-1] = (np.diff(found.genuine, 2) != 0) | (np.diff(found.frauds, 2) != 0)
    across, up = _curve(found.genuine[corner]), _curve(found.frauds[corner])
    return float(np.trapezoid(up, across))


def _curve(counts: Counts) -> Floats:
    shares: Floats = np.append(np.zeros(1, np.int32), counts) / counts[-1]
    return shares


def _is_mixed(is_fraud: Bools) -> bool:
    return bool(is_fraud.any()) and not bool(is_fraud.all())
