"""What a report needs of a run beyond its scores; it watches a replay and changes nothing.

Distributions are counted as the events pass, the error of the model is watched in the order in
which labels come, and of each label only its delay is kept: 17 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.drift import Detection, ErrorDrift
from pipeline.durations import DAY_MS
from pipeline.engine import Decisions
from pipeline.feature_drift import FeaturePsi
from pipeline.policy import APPROVE
from pipeline.replay import Learned

SCORE = "score"
# Where nothing spoke for fraud.
NO_REASON = ("none", 0.0)


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """All labels that were learned, in that order; `source` is a number of `SOURCES`."""

    source: NDArray[np.int8]
    event_time_ms: NDArray[np.int64]
    delay_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AlertColumns:
    """Reviews and declines: the number of the event, and of its first reason in `codes`."""

    event: NDArray[np.int64]
    reason: NDArray[np.int16]
    codes: tuple[str, ...]


class RunLog:
    """Watches the decisions and the labels of one replay.

    Parameters
    ----------
    feature_names
        Names of the columns of the decisions' features.
    reference_from_ms
        From this time on events are the reference of the distributions; `None`: a label delay
        after the first event, when the model has begun to learn.
    """

    def __init__(
        self, feature_names: Sequence[str], *, label_delay_ms: int, reference_from_ms: int | None
    ) -> None:
        self._label_delay_ms, self._reference_from_ms = label_delay_ms, reference_from_ms
        self._psi = FeaturePsi((*feature_names, SCORE))
        self._psi_by_day: dict[int, dict[str, float]] = {}
        self._day: int | None = None
        self._of_day: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        self._errors = ErrorDrift()
        self._labels: list[tuple[NDArray[np.int8], NDArray[np.int64], NDArray[np.int64]]] = []
        self._events = 0
        self._alerts: list[tuple[NDArray[np.int64], NDArray[np.int16]]] = []
        self._codes: dict[str, int] = {}
        self.policy_version = self.schema_hash = ""

    def add_decisions(self, decisions: Decisions) -> None:
        """Watch a batch of decisions."""
        if not len(decisions):
            return
        times = decisions.transactions.event_time_ms
        self._watch_distributions(decisions, times)
        self.policy_version, self.schema_hash = decisions.policy_version, decisions.schema_hash
        alerts = np.flatnonzero(decisions.actions != APPROVE)
        first = [next(iter(decisions.reasons[row]), NO_REASON)[0] for row in alerts.tolist()]
        numbers = [self._codes.setdefault(code, len(self._codes)) for code in first]
        self._alerts.append((self._events + alerts, np.array(numbers, np.int16)))
        self._events += len(decisions)

    def add_learned(self, found: Learned) -> None:
        """Watch examples in the order in which they were learned."""
        times = found.examples.event_time_ms
        self._labels.append((found.source, times, found.label_time_ms - times))
        champion = next(iter(found.scores.values()))
        self._errors.observe(
            champion.tolist(), (found.examples.is_fraud == 1).tolist(), times.tolist()
        )

    @property
    def psi_by_day(self) -> dict[int, dict[str, float]]:
        """The PSI of each feature and of the score at the end of each UTC day that has one."""
        self._keep_psi()
        return self._psi_by_day

    @property
    def alerts(self) -> AlertColumns:
        """The reviews and declines."""
        parts = self._alerts or [(np.zeros(0, np.int64), np.zeros(0, np.int16))]
        events, reasons = (np.concatenate(column) for column in zip(*parts, strict=True))
        return AlertColumns(events, reasons, tuple(self._codes))

    @property
    def labels(self) -> LabelColumns:
        """The labels that were learned."""
        if not self._labels:
            return LabelColumns(np.zeros(0, np.int8), np.zeros(0, np.int64), np.zeros(0, np.int64))
        joined = tuple(np.concatenate(column) for column in zip(*self._labels, strict=True))
        return LabelColumns(*joined)

    @property
    def detections(self) -> tuple[Detection, ...]:
        """What the detectors found in the error, in the order of the labels that showed it."""
        return self._errors.detections

    def _watch_distributions(self, decisions: Decisions, times: NDArray[np.int64]) -> None:
        if self._reference_from_ms is None:
            self._reference_from_ms = int(times[0]) + self._label_delay_ms
        if (day := int(times[0]) // DAY_MS) != self._day:
            self._keep_psi()
            self._day = day
        late_enough = times >= self._reference_from_ms
        values = np.column_stack((decisions.features, decisions.scores.astype(np.float32)))
        self._of_day.append((values[late_enough], times[late_enough]))

    def _keep_psi(self) -> None:
        """Count the rows of a day together, which costs less than batch by batch."""
        if not self._of_day:
            return
        rows, times = (np.concatenate(column) for column in zip(*self._of_day, strict=True))
        self._of_day = []
        self._psi.observe(rows, times)
        if self._day is not None and (values := self._psi.values):
            self._psi_by_day[self._day] = values
