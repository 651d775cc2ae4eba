"""The values that a report of a replay is made of; `report.py` computes them.

They are plain numbers, so that the page shows nothing that a test has not seen.

>>> point = CurvePoint("additive", score_min=0.5, precision=0.9, recall=0.4)
>>> point.recall
0.4
"""

from dataclasses import dataclass

from pipeline.drift import Detection
from pipeline.durations import DAY_MS
from pipeline.evaluation import Quality
from pipeline.quality.findings import Findings


@dataclass(frozen=True, slots=True)
class Facts:
    """What was run: enough to run it again, and nothing of the machine."""

    file_name: str
    schema: str
    schema_hash: str
    policy_version: str
    finished: bool
    events: int
    duplicates: int
    first_ms: int | None
    last_ms: int | None
    start_ms: int | None
    end_ms: int | None
    label_delay_ms: int
    models: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str, str], ...]
    actions: dict[str, int]
    labels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The quality of one model on the labelled events of one stretch of event time.

    `events` counts all decisions, `labelled` those whose truth the file knows, and `arrived` those
    whose label was learned before the run ended.
    """

    model: str
    start_ms: int
    end_ms: int
    events: int
    labelled: int
    arrived: int
    frauds: int
    measured: bool
    average_precision: float | None
    log_loss: float | None
    brier: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What would be found, and how much of it were fraud, from one score on."""

    model: str
    score_min: float
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What the champion's threshold for an action gave."""

    action: str
    score_min: float
    alerts: int
    frauds: int
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Events of similar scores: what was said, and how many were frauds (95 % Wilson interval)."""

    model: str
    score_low: float
    score_high: float
    events: int
    frauds: int
    score_mean: float
    fraud_rate: float
    rate_low: float
    rate_high: float


@dataclass(frozen=True, slots=True)
class ActionDay:
    """Decisions of one day, or of one week in a long run, by action; and the frauds among them."""

    start_ms: int
    approve: int
    review: int
    decline: int
    frauds: int


@dataclass(frozen=True, slots=True)
class ActionTruth:
    """What turned out to be behind one action, over the measured events."""

    action: str
    events: int
    frauds: int


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How often a reason came first in a review or decline, and how often that was a fraud."""

    code: str
    alerts: int
    frauds: int


@dataclass(frozen=True, slots=True)
class ErrorDay:
    """The champion's mean squared error on the labelled events of one day."""

    start_ms: int
    events: int
    error: float


@dataclass(frozen=True, slots=True)
class PsiPoint:
    """The highest PSI of one feature, or of the score, in one stretch."""

    name: str
    start_ms: int
    psi: float


@dataclass(frozen=True, slots=True)
class DelayBin:
    """Labels of one source whose delay lies from `low_ms` to before `high_ms`; `None` is open."""

    source: str
    low_ms: int
    high_ms: int | None
    labels: int


@dataclass(frozen=True, slots=True)
class DelaySummary:
    """How long the labels of one source took."""

    source: str
    labels: int
    median_ms: float
    p90_ms: float
    longest_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page shows.

    Parameters
    ----------
    measured_days
        UTC days of the measured events.
    minor_digits
        2 where 1.00 is 100 minor units of money.
    """

    facts: Facts
    quality: dict[str, Quality]
    stretch_ms: int
    findings: Findings
    measured_days: int = 0
    minor_digits: int = 2
    stretches: tuple[Stretch, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    operating_points: tuple[OperatingPoint, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()
    action_stretch_ms: int = DAY_MS
    action_days: tuple[ActionDay, ...] = ()
    action_truths: tuple[ActionTruth, ...] = ()
    reasons: tuple[ReasonCount, ...] = ()
    error_days: tuple[ErrorDay, ...] = ()
    detections: tuple[Detection, ...] = ()
    score_psi: tuple[PsiPoint, ...] = ()
    feature_psi: tuple[PsiPoint, ...] = ()
    delays: tuple[DelayBin, ...] = ()
    delay_summaries: tuple[DelaySummary, ...] = ()
