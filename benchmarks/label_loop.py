"""How long it takes until a label counts: from its transaction to the first decision that knows it.

A version is named by the training offset it learned to, and each decision by its version. So the
first decision of a label's own partition whose version learned it is a fact of the topics, and its
event time less that of the labelled transaction is the delay that was in effect.

>>> first_knowing(np.array([0, 0, 2, 2, 5]), np.array([0, 1, 2, 4, 5])).tolist()
[2, 2, 4, 4, 5]
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.topics import Decided, Examples, Ints, Labels
from pipeline.durations import DAY_MS, HOUR_MS

QUANTILES = (0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class LabelLoop:
    """The delays of a run's labels.

    Parameters
    ----------
    labels, without
        Labels that a later decision of their partition knew; those that none did, since the run
        had ended.
    delay_days
        Event time from transaction to the first decision that knew its label: p50, p95, p99, max.
    beyond_hours
        The same less the delay that labels were published with.
    share_within
        The share of the labels whose `beyond` is at most the allowed one.
    join_seconds
        Wall time from a label's arrival in `feedback` to that of its example in `training`.
    adopt_seconds
        From there to the decision.
    """

    labels: int
    without: int
    delay_days: dict[str, float]
    beyond_hours: dict[str, float]
    share_within: float
    join_seconds: dict[str, float]
    adopt_seconds: dict[str, float]


def first_knowing(versions: Ints, offsets: Ints) -> Ints:
    """Give, for each training offset, the first decision of a version that learned it.

    `versions` are those of one partition's decisions in their order. Where no decision knew it,
    their number is given.
    """
    # A worker that took a partition over may have been a version behind for a moment.
    reached = np.maximum.accumulate(versions) if len(versions) else versions
    return np.searchsorted(reached, offsets, side="right")


def label_loop(examples: Examples, decided: Decided, labels: Labels, beyond_ms: int) -> LabelLoop:
    """Measure the loop of every label that was learned."""
    rows = examples.first_of_each()
    knowing = _rows_knowing(examples, decided, rows)
    rows, knowing = rows[knowing >= 0], knowing[knowing >= 0]
    seen_ms = decided.event_time_ms[knowing]
    delay = seen_ms - examples.event_time_ms[rows]
    beyond = seen_ms - examples.label_time_ms[rows]
    arrived = _arrivals(labels, examples, rows)
    appended = examples.appended_ms[rows]
    return LabelLoop(
        labels=len(rows),
        without=len(examples.first_of_each()) - len(rows),
        delay_days=_quantiles(delay / DAY_MS),
        beyond_hours=_quantiles(beyond / HOUR_MS),
        share_within=round(float((beyond <= beyond_ms).mean()), 6) if len(rows) else 0.0,
        join_seconds=_quantiles((appended - arrived) / 1000),
        adopt_seconds=_quantiles((decided.appended_ms[knowing] - appended) / 1000),
    )


def _rows_knowing(examples: Examples, decided: Decided, rows: Ints) -> Ints:
    """Give the decision that first knew each example, -1 where none did."""
    found = np.full(len(rows), -1)
    for partition in np.unique(examples.partition[rows]).tolist():
        own = np.flatnonzero(decided.partition == partition)
        wanted = np.flatnonzero(examples.partition[rows] == partition)
        place = first_knowing(decided.version[own], examples.offset[rows[wanted]])
        known = place < len(own)
        found[wanted[known]] = own[place[known]]
    return found


def _arrivals(labels: Labels, examples: Examples, rows: Ints) -> Ints:
    """Give when each label first came to stand in `feedback`."""
    ids, first = np.unique(labels.label_id, return_index=True)
    place = np.searchsorted(ids, examples.label_id[rows])
    return labels.appended_ms[first[place]]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    names = ("p50", "p95", "p99", "max")
    found = np.quantile(values, QUANTILES).round(4).tolist()
    return dict(zip(names, found, strict=True))
