"""What the report of a replay shows, as plain values; `page.py` makes a page of them.

Everything is computed from the columns that a run left, once, when it is over. The numbers are
those of `evaluation.py`; what is added here is how they are cut: by stretches of event time, by
score, by action. Nothing depends on a clock, so the same run gives the same report.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.evaluation import log_losses, squared_errors
from pipeline.label_words import SOURCES
from pipeline.quality.findings import Findings
from pipeline.quality.intervals import wilson
from pipeline.quality.ranking import average_precision, steps
from pipeline.records import ACTIONS
from pipeline.replay import ReplayOptions, ReplayResult
from pipeline.reporting.run_log import SCORE, AlertColumns, LabelColumns, RunLog
from pipeline.reporting.values import (
    ActionDay,
    ActionTruth,
    CalibrationBin,
    CurvePoint,
    DelayBin,
    DelaySummary,
    ErrorDay,
    Facts,
    OperatingPoint,
    PsiPoint,
    ReasonCount,
    Report,
    Stretch,
)
from pipeline.schema import Schema
from pipeline.score_log import ScoreColumns
from pipeline.settings import SETTINGS, Settings

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A Monday, so that weeks are calendar weeks.
MONDAY_MS = 4 * DAY_MS
STRETCHES_MS = (DAY_MS, 7 * DAY_MS, 28 * DAY_MS)
# Beyond so many points the next longer stretch is taken: a plot stays readable, and the page small.
STRETCHES_MAX = 62
ACTION_DAYS_MAX = 400
CURVE_POINTS = 200
# Fraud is rare, so most scores are small: the bins grow with the score.
SCORE_EDGES = (
    0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8,
    0.9, 1.0,
)  # fmt: skip
DELAY_EDGES_MS = tuple(
    hours * HOUR_MS
    for hours in (0, 1, 6, *(24 * days for days in (1, 2, 3, 7, 14, 21, 30, 45, 60, 90, 120)))
)
REASONS_SHOWN = 12
FEATURES_SHOWN = 12
# Settings that a replay depends on. Folders, addresses and passwords are not among them.
SETTINGS_SHOWN = (
    "review_score_min",
    "decline_score_min",
    "batch_events_max",
    "feedback_limit",
    "maturity_days",
)


def make_report(
    file_name: str,
    schema: Schema,
    settings: Settings,
    options: ReplayOptions,
    result: ReplayResult,
    scores: ScoreColumns | None,
    log: RunLog,
    findings: Findings,
) -> Report:
    """Compute what is shown of a run, whole or interrupted."""
    facts = _facts(file_name, schema, settings, options, result, log)
    if scores is None:
        return Report(facts=facts, quality=result.quality, stretch_ms=DAY_MS, findings=findings)
    first_ms, last_ms = int(scores.event_time_ms.min()), int(scores.event_time_ms.max())
    stretch_ms = choose_stretch(first_ms, last_ms, STRETCHES_MAX)
    measured = scores.measured(options.start_ms, options.end_ms)
    champion, truth = scores.scores[settings.model], scores.is_fraud == 1
    action_stretch_ms = choose_stretch(first_ms, last_ms, ACTION_DAYS_MAX)
    psi = psi_points(log.psi_by_day, stretch_ms)
    return Report(
        facts=facts,
        quality=result.quality,
        stretch_ms=stretch_ms,
        findings=findings,
        measured_days=len(np.unique(scores.event_time_ms[measured] // DAY_MS)),
        minor_digits=schema.minor_digits,
        stretches=tuple(stretches(scores, measured, log.labels, stretch_ms)),
        curve=tuple(
            point
            for name, given in scores.scores.items()
            for point in curve(name, given[measured], truth[measured])
        ),
        operating_points=tuple(operating_points(champion[measured], truth[measured], settings)),
        calibration=tuple(
            found
            for name, given in scores.scores.items()
            for found in calibration(name, given[measured], truth[measured])
        ),
        action_stretch_ms=action_stretch_ms,
        action_days=tuple(action_days(scores, action_stretch_ms)),
        action_truths=tuple(action_truths(scores.action[measured], truth[measured])),
        reasons=reasons(log.alerts, measured, truth),
        error_days=tuple(error_days(champion, scores)),
        detections=log.detections,
        score_psi=tuple(point for point in psi if point.name == SCORE),
        feature_psi=_most_moved([point for point in psi if point.name != SCORE]),
        delays=tuple(delay_bins(log.labels)),
        delay_summaries=tuple(delay_summaries(log.labels)),
    )


def choose_stretch(first_ms: int, last_ms: int, stretches_max: int) -> int:
    """Give the shortest stretch that cuts a period into few enough parts.

    >>> choose_stretch(0, 30 * DAY_MS, 62) // DAY_MS, choose_stretch(0, 183 * DAY_MS, 62) // DAY_MS
    (1, 7)
    """
    length = last_ms - first_ms
    return next((size for size in STRETCHES_MS if length < stretches_max * size), STRETCHES_MS[-1])


def stretches(
    scores: ScoreColumns, measured: Bools, labels: LabelColumns, stretch_ms: int
) -> Iterator[Stretch]:
    """Judge each model stretch by stretch, the champion first; each with its counts."""
    number = _number(scores.event_time_ms, stretch_ms)
    arrived = Counter(_number(labels.event_time_ms, stretch_ms).tolist())
    rows = {place: np.flatnonzero(number == place) for place in np.unique(number).tolist()}
    for name, given in scores.scores.items():
        for place, inside in rows.items():
            judged = inside[scores.is_fraud[inside] >= 0]
            score, fraud = given[judged], scores.is_fraud[judged] == 1
            yield Stretch(
                model=name,
                start_ms=_start(place, stretch_ms),
                end_ms=_start(place + 1, stretch_ms),
                events=len(inside),
                labelled=len(judged),
                # A corrected label is learned twice.
                arrived=min(arrived[place], len(inside)),
                frauds=int(fraud.sum()),
                measured=bool(measured[inside].any()),
                average_precision=average_precision(score, fraud),
                log_loss=float(log_losses(score, fraud).mean()) if len(judged) else None,
                brier=float(squared_errors(score, fraud).mean()) if len(judged) else None,
            )


def curve(model: str, scores: NDArray[np.float64], is_fraud: Bools) -> Iterator[CurvePoint]:
    """Give precision by recall, thinned to at most `CURVE_POINTS` and the end.

    >>> scores, truth = np.array([0.9, 0.8, 0.3]), np.array([True, False, True])
    >>> [(point.recall, point.precision) for point in curve("m", scores, truth)]
    [(0.5, 1.0), (1.0, 0.667)]
    """
    if not is_fraud.any():
        return
    found = steps(scores, is_fraud)
    precision = found.precision
    recall = found.frauds / found.frauds[-1]
    wanted = np.linspace(recall[0], 1.0, CURVE_POINTS)
    for row in np.unique(np.searchsorted(recall, wanted, side="left")).tolist():
        yield CurvePoint(model, float(found.scores[row]), float(precision[row]), float(recall[row]))


def operating_points(
    scores: NDArray[np.float64], is_fraud: Bools, settings: Settings
) -> Iterator[OperatingPoint]:
    """Give what lies at or above each threshold of the policy."""
    known = int(is_fraud.sum())
    for action in ("review", "decline"):
        score_min = float(getattr(settings, f"{action}_score_min"))
        above = scores >= score_min
        alerts, frauds = int(above.sum()), int(is_fraud[above].sum())
        if alerts and known:
            yield OperatingPoint(action, score_min, alerts, frauds, frauds / alerts, frauds / known)


def calibration(
    model: str, scores: NDArray[np.float64], is_fraud: Bools
) -> Iterator[CalibrationBin]:
    """Compare scores with fraud rates, by score; bins without events are left out."""
    code = np.minimum(np.searchsorted(SCORE_EDGES, scores, side="right"), len(SCORE_EDGES) - 1) - 1
    for place in np.unique(code).tolist():
        inside = code == place
        events, frauds = int(inside.sum()), int(is_fraud[inside].sum())
        interval = wilson(frauds, events)
        assert interval is not None, "no bin is empty"
        yield CalibrationBin(
            model=model,
            score_low=SCORE_EDGES[place],
            score_high=SCORE_EDGES[place + 1],
            events=events,
            frauds=frauds,
            score_mean=float(scores[inside].mean()),
            fraud_rate=frauds / events,
            rate_low=interval.low,
            rate_high=interval.high,
        )


def action_days(scores: ScoreColumns, stretch_ms: int) -> Iterator[ActionDay]:
    """Count actions and known frauds by day, or by longer stretches."""
    number = _number(scores.event_time_ms, stretch_ms)
    for place in np.unique(number).tolist():
        inside = number == place
        approve, review, decline = np.bincount(
            scores.action[inside], minlength=len(ACTIONS)
        ).tolist()
        frauds = int((scores.is_fraud[inside] == 1).sum())
        yield ActionDay(_start(place, stretch_ms), approve, review, decline, frauds)


def action_truths(actions: NDArray[np.int8], is_fraud: Bools) -> Iterator[ActionTruth]:
    """Say for each action how many labelled events it was taken on, and how many were frauds."""
    for place, name in enumerate(ACTIONS):
        taken = actions == place
        yield ActionTruth(name, int(taken.sum()), int(is_fraud[taken].sum()))


def reasons(alerts: AlertColumns, measured: Bools, is_fraud: Bools) -> tuple[ReasonCount, ...]:
    """Count first reasons over the measured alerts, the most frequent first.

    >>> alerts = AlertColumns(np.array([0, 1, 3, 9]), np.array([0, 1, 0, 0]), ("A", "B"))
    >>> reasons(alerts, np.ones(4, np.bool_), np.array([True, False, False, False]))
    (ReasonCount(code='A', alerts=2, frauds=1), ReasonCount(code='B', alerts=1, frauds=0))
    """
    # An interrupt may come between the two logs: the last batch is then in one of them.
    inside = alerts.event < len(measured)
    event, reason = alerts.event[inside], alerts.reason[inside]
    event, reason = event[measured[event]], reason[measured[event]]
    count = np.bincount(reason, minlength=len(alerts.codes)).tolist()
    frauds = np.bincount(reason[is_fraud[event]], minlength=len(alerts.codes)).tolist()
    found = [
        ReasonCount(code, *counts)
        for code, *counts in zip(alerts.codes, count, frauds, strict=True)
        if counts[0]
    ]
    return tuple(sorted(found, key=lambda item: (-item.alerts, item.code))[:REASONS_SHOWN])


def error_days(champion: NDArray[np.float64], scores: ScoreColumns) -> Iterator[ErrorDay]:
    """Give the champion's error day by day, where events have labels."""
    judged = scores.is_fraud >= 0
    errors = squared_errors(champion[judged], scores.is_fraud[judged] == 1)
    days = scores.event_time_ms[judged] // DAY_MS
    for day in np.unique(days).tolist():
        found = errors[days == day]
        yield ErrorDay(day * DAY_MS, len(found), float(found.mean()))


def psi_points(psi_by_day: dict[int, dict[str, float]], stretch_ms: int) -> list[PsiPoint]:
    """Give the highest PSI of each column in each stretch, in the order of the columns."""
    highest: dict[tuple[str, int], float] = {}
    for day, values in psi_by_day.items():
        place = int(_number(np.array([day * DAY_MS]), stretch_ms)[0])
        for name, value in values.items():
            highest[name, place] = max(value, highest.get((name, place), 0.0))
    return [
        PsiPoint(name, _start(place, stretch_ms), value) for (name, place), value in highest.items()
    ]


def delay_bins(labels: LabelColumns) -> Iterator[DelayBin]:
    """Count labels by source and delay; bins without a label are left out."""
    code = np.searchsorted(DELAY_EDGES_MS, np.maximum(labels.delay_ms, 0), side="right") - 1
    highs = [*DELAY_EDGES_MS[1:], None]
    for number, source in enumerate(SOURCES):
        counts = np.bincount(code[labels.source == number], minlength=len(DELAY_EDGES_MS))
        for place in np.flatnonzero(counts).tolist():
            yield DelayBin(source, DELAY_EDGES_MS[place], highs[place], int(counts[place]))


def delay_summaries(labels: LabelColumns) -> Iterator[DelaySummary]:
    """Say how long the labels of each source took."""
    for number, source in enumerate(SOURCES):
        delays = labels.delay_ms[labels.source == number]
        if len(delays):
            median, p90, longest = np.quantile(delays, (0.5, 0.9, 1.0)).tolist()
            yield DelaySummary(source, len(delays), median, p90, longest)


def _facts(
    file_name: str,
    schema: Schema,
    settings: Settings,
    options: ReplayOptions,
    result: ReplayResult,
    log: RunLog,
) -> Facts:
    # Champion and challengers learn one log: all are as far as the champion's version says.
    _, _, offset = result.model_version.partition("@")
    names = (settings.model, *settings.challenger_names)
    defaults = {setting.name: setting.default for setting in SETTINGS}
    assert set(SETTINGS_SHOWN) <= set(defaults)
    changed = [
        (name, str(getattr(settings, name)), str(defaults[name]))
        for name in SETTINGS_SHOWN
        if getattr(settings, name) != defaults[name]
    ]
    return Facts(
        file_name=file_name,
        schema=schema.name,
        schema_hash=log.schema_hash,
        policy_version=log.policy_version,
        finished=result.finished,
        events=result.events,
        duplicates=result.duplicates,
        first_ms=result.first_ms,
        last_ms=result.last_ms,
        start_ms=options.start_ms,
        end_ms=options.end_ms,
        label_delay_ms=options.label_delay_ms,
        models=tuple((name, f"{name}@{offset or 0}") for name in names),
        settings=tuple(changed),
        actions={name: result.actions[name] for name in ACTIONS},
        labels=dict(sorted(result.labels.items())),
    )


def _most_moved(points: Sequence[PsiPoint]) -> tuple[PsiPoint, ...]:
    """Keep the features whose PSI rose highest, those first."""
    highest: dict[str, float] = {}
    for point in points:
        highest[point.name] = max(point.psi, highest.get(point.name, 0.0))
    names = sorted(highest, key=lambda name: (-highest[name], name))[:FEATURES_SHOWN]
    return tuple(point for name in names for point in points if point.name == name)


def _number(event_time_ms: Ints, stretch_ms: int) -> Ints:
    return (event_time_ms - MONDAY_MS) // stretch_ms


def _start(number: int, stretch_ms: int) -> int:
    return number * stretch_ms + MONDAY_MS
