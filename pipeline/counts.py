"""Plain numbers that a process keeps of itself; `metrics.py` reads them at scrape time.

A worker adds to these in its own loop without a lock or a metrics library; whole numbers and
dictionaries with known keys are all there is. Every known key begins at zero, so that a rate is
right from the first event on.

>>> counts = WorkerCounts(schema="card")
>>> counts.decisions["review", "act"] += 1
>>> counts.stage_seconds["decide"].observe(0.003)
>>> counts.stage_seconds["decide"].count, counts.decisions["review", "act"]
(1, 1)
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from pipeline.errors import (
    CONTROL_FAULTS,
    REASONS,
    SNAPSHOT_FAULTS,
    ControlFault,
    Reason,
    SnapshotFault,
)
from pipeline.label_words import OUTCOME_KINDS, SOURCES, OutcomeKind, Source, Verdict
from pipeline.records import ACTIONS, MODES, OVERRULING, VERDICTS, Action, Mode
from pipeline.topics import FEEDBACK, OUTCOMES, TRANSACTIONS
from pipeline.verdicts import LABEL_PATHS, LabelPath

Stage = Literal["decode", "read", "decide", "commit", "publish"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# From a batch of one on a fast machine to a store that is about to be given up.
STAGE_SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Buckets:
    """A histogram of fixed bounds: a value falls under the first bound that is not below it.

    >>> buckets = Buckets((1.0, 10.0))
    >>> buckets.observe_many([0.5, 1.0, 3.0, 99.0])
    >>> buckets.cumulative(), buckets.sum
    ([('1.0', 2), ('10.0', 3), ('+Inf', 4)], 103.5)
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(float(bound) for bound in bounds)
        assert list(self.bounds) == sorted(set(self.bounds)), self.bounds
        self._counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """Values seen."""
        return sum(self._counts)

    def observe(self, value: float) -> None:
        """Take one value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_many(self, values: ArrayLike) -> None:
        """Take a batch of values."""
        column = np.asarray(values, np.float64)
        places = np.searchsorted(self.bounds, column, side="left")
        added = np.bincount(places, minlength=len(self._counts))
        self._counts = [old + new for old, new in zip(self._counts, added.tolist(), strict=True)]
        self.sum += float(column.sum())

    def cumulative(self) -> list[tuple[str, int]]:
        """Give each bound with the number of values up to it, as Prometheus wants them."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, np.cumsum(self._counts).tolist(), strict=True))


def _by_source_and_verdict() -> dict[tuple[Source, Verdict], int]:
    return {(source, verdict): 0 for source in SOURCES for verdict in VERDICTS}


def _by_action_and_mode() -> dict[tuple[Action, Mode], int]:
    return {(action, mode): 0 for action in ACTIONS for mode in MODES}


@dataclass(slots=True, kw_only=True)
class WorkerCounts:
    """What one worker has done since it started.

    Attributes
    ----------
    schema
        Name of the schema of its events.
    events
        Transactions taken from the log, whatever became of them.
    decisions
        Decisions committed, by action and mode.
    overruled
        Those that a list or the breaker decided, by the reason that says so.
    duplicates
        Transactions decided before: not decided again.
    ids_remembered, ids_dropped
        Ids that were decided lately, and those that gave way at the limit; of all partitions.
    late
        Transactions behind the watermark of their partition by more than is allowed.
    rejected
        Dead letters by reason.
    redriven
        Records taken that had been dead letters and were sent again, by topic.
    labels
        Labels decoded, by source and verdict.
    label_paths
        What became of them.
    outcomes
        Outcomes taken, by kind.
    labels_pending
        Labels that wait for their decision now.
    feedback_waiting, feedback_expired
        Decisions that wait for a label now, and those that gave way at the limit.
    model_offset
        Training offset of the version in force; `None` before the first.
    unread
        Records that lie in Kafka and were not fetched yet, by topic and partition held.
    models_refused
        Records of the models topic that were refused, by what was wrong.
    degraded, rules_in_force
        Decisions made by rules for want of a model, and whether they decide now.
    rules_taken, rules_refused, rules_are_broken
        Changed files of rules that were taken and refused, and whether the file as it stands is
        not the one in force.
    controls_refused
        Records of the controls log that do not count, by what was wrong.
    control_offset, is_acting, is_pinned
        The last record in force (-1 before any), and whether it says to act, and to hold a version.
    breaker_open
        Whether the breaker is open, by partition held.
    watermark_ms
        Highest event time by partition held; remove a partition that is revoked.
    stage_seconds
        Duration of each stage of a batch.
    """

    schema: str
    events: int = 0
    decisions: dict[tuple[Action, Mode], int] = field(default_factory=_by_action_and_mode)
    overruled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OVERRULING, 0))
    rejected: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    redriven: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((TRANSACTIONS, FEEDBACK, OUTCOMES), 0)
    )
    duplicates: int = 0
    ids_remembered: int = 0
    ids_dropped: int = 0
    late: int = 0
    labels: dict[tuple[Source, Verdict], int] = field(default_factory=_by_source_and_verdict)
    label_paths: dict[LabelPath, int] = field(default_factory=lambda: dict.fromkeys(LABEL_PATHS, 0))
    outcomes: dict[OutcomeKind, int] = field(
        default_factory=lambda: dict.fromkeys(OUTCOME_KINDS, 0)
    )
    commits: int = 0
    commits_refused: int = 0
    model_adoptions: int = 0
    model_offset: int | None = None
    labels_pending: int = 0
    feedback_waiting: int = 0
    feedback_expired: int = 0
    unread: dict[tuple[str, int], int] = field(default_factory=dict)
    models_refused: dict[SnapshotFault, int] = field(
        default_factory=lambda: dict.fromkeys(SNAPSHOT_FAULTS, 0)
    )
    degraded: int = 0
    rules_in_force: bool = False
    rules_taken: int = 0
    rules_refused: int = 0
    rules_are_broken: bool = False
    controls_refused: dict[ControlFault, int] = field(
        default_factory=lambda: dict.fromkeys(CONTROL_FAULTS, 0)
    )
    control_offset: int = -1
    is_acting: bool = False
    is_pinned: bool = False
    breaker_open: dict[int, bool] = field(default_factory=dict)
    watermark_ms: dict[int, int] = field(default_factory=dict)
    stage_seconds: dict[Stage, Buckets] = field(
        default_factory=lambda: {stage: Buckets(STAGE_SECONDS_BOUNDS) for stage in STAGES}
    )


@dataclass(slots=True, kw_only=True)
class TrainerCounts:
    """What the trainer has done since it started.

    Attributes
    ----------
    learned
        Examples learned, by source and verdict.
    duplicates
        Examples that came again and were not learned again.
    training_offset
        Offset of the training log up to which has been learned; `None` before the first.
    models_refused
        Published versions that a start could not take, by what was wrong.
    profile_rows
        Rows of label-derived profiles written to the store.
    at_work
        1 while this trainer learns and commits, 0 while it stands by.
    refused
        Commits refused, since another trainer was at work.
    standby
        Versions compared while standing by: equal to those of the trainer at work, or not.
    batch_seconds, batch_events
        Duration and size of the last batch learned.
    """

    learned: dict[tuple[Source, Verdict], int] = field(default_factory=_by_source_and_verdict)
    duplicates: int = 0
    snapshots: int = 0
    training_offset: int | None = None
    models_refused: dict[SnapshotFault, int] = field(
        default_factory=lambda: dict.fromkeys(SNAPSHOT_FAULTS, 0)
    )
    profile_rows: int = 0
    at_work: int = 0
    refused: int = 0
    standby: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    batch_seconds: float | None = None
    batch_events: int = 0
