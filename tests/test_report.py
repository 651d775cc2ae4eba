"""What a report shows, against examples worked out by hand, and against the run it is of."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.drift import ErrorDrift
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.engine import Decisions
from pipeline.feature_drift import FeaturePsi
from pipeline.features import feature_table
from pipeline.label_words import SOURCES
from pipeline.quality.findings import Findings
from pipeline.quality.ranking import average_precision
from pipeline.replay import Labelled, Replay, ReplayOptions
from pipeline.reporting.report import (
    action_days,
    action_truths,
    calibration,
    curve,
    delay_bins,
    delay_summaries,
    error_days,
    make_report,
    operating_points,
    psi_points,
    reasons,
    stretches,
)
from pipeline.reporting.run_log import AlertColumns, LabelColumns, RunLog
from pipeline.reporting.values import (
    ActionDay,
    ActionTruth,
    DelayBin,
    DelaySummary,
    OperatingPoint,
    PsiPoint,
    ReasonCount,
    Report,
)
from pipeline.score_log import ScoreColumns
from pipeline.settings import Settings
from producers.simulator import SimulatorOptions, simulate
from tests.strategies import CARD, MONDAY_MS

WEEK_MS = 7 * DAY_MS
APPROVE, REVIEW, DECLINE = range(3)
EVERYTHING = ReplayOptions(label_delay_ms=7 * DAY_MS)


def scored(
    days: Sequence[float],
    fraud: Sequence[int],
    scores: Sequence[float],
    *,
    actions: Sequence[int] | None = None,
) -> ScoreColumns:
    """Give a run of one model: the day of each event after a Monday, its truth and its score."""
    count = len(days)
    return ScoreColumns(
        is_fraud=np.array(fraud, np.int8),
        event_time_ms=MONDAY_MS + (np.array(days) * DAY_MS).astype(np.int64),
        card=np.zeros(count, np.int64),
        action=np.array(actions or [APPROVE] * count, np.int8),
        scores={"additive": np.array(scores, np.float64)},
        amount_minor=np.full(count, 1000, np.int64),
        row=np.arange(count, dtype=np.int64),
        labels_known=np.zeros(count, np.int64),
    )


def labelled(
    days: Sequence[float], hours: Sequence[float], source: str = "analyst"
) -> LabelColumns:
    """Give labels: the day of the event after a Monday, and the delay."""
    return LabelColumns(
        source=np.full(len(days), SOURCES.index(source), np.int8),  # type: ignore[arg-type]
        event_time_ms=MONDAY_MS + (np.array(days) * DAY_MS).astype(np.int64),
        delay_ms=(np.array(hours) * HOUR_MS).astype(np.int64),
    )


# Stretches.


def test_a_week_begins_on_monday_and_is_judged_by_its_own_events() -> None:
    run = scored([0, 3, 6.9, 7, 8], [1, 0, 1, 0, 1], [0.8, 0.5, 0.25, 0.5, 0.5])

    first, second = stretches(run, run.measured(None, None), labelled([0, 7], [1, 1]), WEEK_MS)

    assert (first.start_ms, second.start_ms) == (MONDAY_MS, MONDAY_MS + WEEK_MS)
    assert (first.events, first.labelled, first.arrived, first.frauds) == (3, 3, 1, 2)
    # Frauds at ranks 1 and 3: (1/1 + 2/3) / 2.
    assert first.average_precision == pytest.approx(5 / 6)
    losses = [-math.log(0.8), -math.log(0.5), -math.log(0.25)]
    assert first.log_loss == pytest.approx(sum(losses) / 3)
    assert first.brier == pytest.approx((0.2**2 + 0.5**2 + 0.75**2) / 3)
    assert (second.events, second.frauds, second.brier) == (2, 1, 0.25)


def test_what_nobody_knows_of_is_counted_and_not_judged() -> None:
    run = scored([0, 1, 2], [-1, -1, -1], [0.1, 0.2, 0.3])

    [only] = stretches(run, run.measured(None, None), labelled([], []), WEEK_MS)

    assert (only.events, only.labelled, only.frauds, only.measured) == (3, 0, 0, False)
    assert (only.average_precision, only.log_loss, only.brier) == (None, None, None)


def test_a_correction_is_no_second_label() -> None:
    run = scored([0, 1], [1, 0], [0.5, 0.5])

    [only] = stretches(run, run.measured(None, None), labelled([0, 0, 1], [1, 2, 1]), WEEK_MS)

    assert only.arrived == 2


def test_a_stretch_is_measured_if_any_of_its_events_is() -> None:
    run = scored([0, 6, 7, 14], [0, 1, 0, 1], [0.5] * 4)
    measured = run.measured(MONDAY_MS + 5 * DAY_MS, MONDAY_MS + 7 * DAY_MS)

    found = stretches(run, measured, labelled([], []), WEEK_MS)

    assert [stretch.measured for stretch in found] == [True, False, False]


# Thresholds and probabilities.


def test_the_curve_has_the_area_of_average_precision() -> None:
    chance = np.random.default_rng(1)
    truth = chance.random(5_000) < 0.02
    scores = np.clip(chance.normal(0.2 + 0.3 * truth, 0.1), 0.0, 1.0)
    points = list(curve("additive", scores, truth))

    area = sum(
        (point.recall - before) * point.precision
        for before, point in zip([0.0, *(p.recall for p in points)], points, strict=False)
    )
    assert len(points) <= 200
    assert area == pytest.approx(average_precision(scores, truth), abs=0.01)
    assert points[-1].recall == 1.0
    assert all(
        point.recall == pytest.approx(truth[scores >= point.score_min].sum() / truth.sum())
        and point.precision == pytest.approx(truth[scores >= point.score_min].mean())
        for point in points[:: len(points) // 10]
    )


def test_without_a_fraud_there_is_no_curve() -> None:
    assert not list(curve("additive", np.array([0.1, 0.2]), np.zeros(2, np.bool_)))


def test_thresholds_are_judged_by_what_lies_at_or_above_them() -> None:
    scores = np.array([0.1, 0.15, 0.3, 0.7, 0.9])
    truth = np.array([True, False, True, False, True])

    assert list(operating_points(scores, truth, Settings())) == [
        OperatingPoint("review", 0.15, alerts=4, frauds=2, precision=2 / 4, recall=2 / 3),
        OperatingPoint("decline", 0.7, alerts=2, frauds=1, precision=1 / 2, recall=1 / 3),
    ]


def test_calibration_compares_scores_and_rates_bin_by_bin() -> None:
    scores = np.array([0.01] * 5 + [0.019] * 5 + [1.0, 1.0])
    truth = np.array([True] + [False] * 9 + [True, True])

    low, high = calibration("additive", scores, truth)

    assert (low.score_low, low.score_high, low.events, low.frauds) == (0.01, 0.02, 10, 1)
    assert (low.score_mean, low.fraud_rate) == (pytest.approx(0.0145), 0.1)
    # Wilson's interval of 1 in 10, as tables give it.
    assert (low.rate_low, low.rate_high) == (
        pytest.approx(0.0179, abs=1e-4), pytest.approx(0.4042, abs=1e-4),
    )  # fmt: skip
    assert (high.score_low, high.score_high, high.fraud_rate) == (0.9, 1.0, 1.0)


def test_a_score_of_zero_has_its_bin() -> None:
    [only] = calibration("additive", np.zeros(3), np.zeros(3, np.bool_))

    assert (only.score_low, only.events, only.rate_low) == (0.0, 3, 0.0)


# Actions.


def test_actions_and_frauds_are_counted_day_by_day() -> None:
    actions = [APPROVE, DECLINE, REVIEW, APPROVE]
    run = scored([0, 0.5, 0.9, 1], [1, 1, 0, -1], [0.5] * 4, actions=actions)

    assert list(action_days(run, DAY_MS)) == [
        ActionDay(MONDAY_MS, approve=1, review=1, decline=1, frauds=2),
        ActionDay(MONDAY_MS + DAY_MS, approve=1, review=0, decline=0, frauds=0),
    ]


def test_each_action_says_what_was_behind_it() -> None:
    actions = np.array([APPROVE, APPROVE, DECLINE], np.int8)

    assert list(action_truths(actions, np.array([False, True, True]))) == [
        ActionTruth("approve", 2, 1), ActionTruth("review", 0, 0), ActionTruth("decline", 1, 1),
    ]  # fmt: skip


def test_only_measured_alerts_have_reasons() -> None:
    alerts = AlertColumns(np.array([0, 1, 2, 7]), np.array([0, 1, 2, 0], np.int16), ("A", "B", "C"))
    measured = np.array([False, True, True])

    assert reasons(alerts, measured, np.array([True, True, False])) == (
        ReasonCount("B", 1, 1), ReasonCount("C", 1, 0),
    )  # fmt: skip


# Drift and labels.


def test_the_error_of_a_day_is_the_mean_of_its_squares() -> None:
    run = scored([0, 0.5, 2, 2.5], [1, 0, 0, -1], [0.5, 0.5, 0.25, 0.9])

    found = list(error_days(run.scores["additive"], run))

    assert [(day.start_ms, day.events, day.error) for day in found] == [
        (MONDAY_MS, 2, 0.25), (MONDAY_MS + 2 * DAY_MS, 1, 0.0625),
    ]  # fmt: skip


def test_a_stretch_shows_the_highest_psi_of_its_days() -> None:
    monday = MONDAY_MS // DAY_MS
    by_day = {
        monday: {"a": 0.1, "b": 0.0},
        monday + 6: {"a": 0.3, "b": 0.1},
        monday + 7: {"a": 0.2},
    }

    assert psi_points(by_day, WEEK_MS) == [
        PsiPoint("a", MONDAY_MS, 0.3),
        PsiPoint("b", MONDAY_MS, 0.1),
        PsiPoint("a", MONDAY_MS + WEEK_MS, 0.2),
    ]


def test_delays_are_counted_by_source_and_a_bin_holds_its_lower_edge() -> None:
    labels = labelled([0] * 5, [0.5, 1, 24, 24 * 120, 24 * 500])

    assert list(delay_bins(labels)) == [
        DelayBin("analyst", 0, HOUR_MS, 1),
        DelayBin("analyst", HOUR_MS, 6 * HOUR_MS, 1),
        DelayBin("analyst", DAY_MS, 2 * DAY_MS, 1),
        DelayBin("analyst", 120 * DAY_MS, None, 2),
    ]


def test_a_label_before_its_event_took_no_time() -> None:
    [only] = delay_bins(labelled([1], [-5]))

    assert (only.low_ms, only.labels) == (0, 1)


def test_the_delay_of_a_source_is_summed_up() -> None:
    [only] = delay_summaries(labelled([0] * 11, range(11)))

    assert only == DelaySummary("analyst", 11, 5.0 * HOUR_MS, 9.0 * HOUR_MS, 10.0 * HOUR_MS)


# A whole run.


@pytest.fixture(scope="module")
def simulated() -> list[Labelled]:
    options = SimulatorOptions(customers=400, terminals=400, days=30, seed=1)
    return [(batch.transactions(), batch.is_fraud) for batch in simulate(options)]


def reported(
    batches: Iterable[Labelled],
    options: ReplayOptions = EVERYTHING,
    settings: Settings = Settings(review_score_min=0.1),  # noqa: B008 - it is frozen
) -> tuple[Report, Replay, RunLog]:
    log = RunLog(
        [feature.name for feature in feature_table(CARD)],
        label_delay_ms=options.label_delay_ms,
        reference_from_ms=options.start_ms,
    )
    run = Replay(CARD, settings, options, decided=log.add_decisions, learned=log.add_learned)
    run.run(batches, lambda result: None)
    columns = run.scores.columns()
    return (
        make_report(
            "events.csv", CARD, settings, options, run.result, columns, log, Findings(intervals={})
        ),
        run, log,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(simulated: list[Labelled]) -> tuple[Report, Replay, RunLog]:
    return reported(simulated)


def test_a_report_adds_up_to_its_run(whole: tuple[Report, Replay, RunLog]) -> None:
    report, run, _ = whole
    champion = [item for item in report.stretches if item.model == "additive"]

    assert report.quality == run.result.quality
    assert sum(item.events for item in champion) == run.result.events
    assert sum(item.arrived for item in champion) == run.result.labels["learned"]
    assert sum(item.frauds for item in champion) == report.quality["additive"].frauds
    assert {
        name: sum(getattr(day, name) for day in report.action_days)
        for name in ("approve", "review", "decline")
    } == dict(run.result.actions)
    assert sum(item.labels for item in report.delays) == run.result.labels["learned"]
    assert sum(item.events for item in report.calibration if item.model == "logistic") == (
        report.quality["logistic"].events
    )


def test_brier_over_stretches_is_brier_of_the_run(whole: tuple[Report, Replay, RunLog]) -> None:
    report, _, _ = whole
    judged = [item for item in report.stretches if item.model == "logistic"]

    total = sum((item.brier or 0.0) * item.labelled for item in judged)

    assert total / sum(item.labelled for item in judged) == pytest.approx(
        report.quality["logistic"].brier
    )


def test_alerts_are_those_that_the_policy_made(whole: tuple[Report, Replay, RunLog]) -> None:
    report, run, log = whole

    alerts = run.result.actions["review"] + run.result.actions["decline"]
    assert len(log.alerts.event) == alerts > 10
    assert sum(item.alerts for item in report.reasons) == alerts
    [review, decline] = report.operating_points
    assert (review.alerts, decline.alerts) == (alerts, run.result.actions["decline"])


def test_the_labels_all_took_the_delay_of_the_run(whole: tuple[Report, Replay, RunLog]) -> None:
    report, _, _ = whole

    [only] = report.delay_summaries
    assert (only.source, only.median_ms, only.longest_ms) == ("simulated", WEEK_MS, WEEK_MS)


def test_watching_a_run_changes_nothing(
    whole: tuple[Report, Replay, RunLog], simulated: list[Labelled]
) -> None:
    alone = Replay(CARD, Settings(review_score_min=0.1), EVERYTHING)

    result = alone.run(simulated, lambda result: None)

    watched = whole[1].result
    assert (result.quality, result.actions, result.labels, result.model_version) == (
        watched.quality, watched.actions, watched.labels, watched.model_version,
    )  # fmt: skip


def test_a_report_twice_is_the_same(
    whole: tuple[Report, Replay, RunLog], simulated: list[Labelled]
) -> None:
    assert reported(simulated)[0] == whole[0]


def test_the_detectors_see_the_errors_in_the_order_of_the_labels(
    simulated: list[Labelled],
) -> None:
    # After two weeks every truth is another: a change that no detector misses.
    turned = [
        (events, 1 - is_fraud if day >= 14 else is_fraud)
        for day, (events, is_fraud) in enumerate(simulated)
    ]
    report, run, _ = reported(turned, ReplayOptions(DAY_MS))
    columns = run.scores.columns()
    assert columns is not None
    known = run.result.labels["learned"]
    alone = ErrorDrift()

    alone.observe(
        columns.scores["additive"][:known],
        columns.is_fraud[:known],
        columns.event_time_ms[:known].tolist(),
    )

    assert report.detections == alone.detections
    assert report.detections[0].direction == "rise"


def test_features_and_score_are_compared_with_what_came_first(simulated: list[Labelled]) -> None:
    start_ms = int(simulated[1][0].event_time_ms[0])
    names = [feature.name for feature in feature_table(CARD)]
    log = RunLog(names, label_delay_ms=0, reference_from_ms=start_ms)
    alone = FeaturePsi((*names, "score"))

    def watch(decisions: Decisions) -> None:
        log.add_decisions(decisions)
        times = decisions.transactions.event_time_ms
        rows = np.column_stack((decisions.features, decisions.scores))
        alone.observe(rows[times >= start_ms], times[times >= start_ms])

    run = Replay(CARD, Settings(challengers="none"), EVERYTHING, decided=watch)
    result = run.run(simulated, lambda result: None)

    assert result.last_ms is not None
    assert max(log.psi_by_day) == result.last_ms // DAY_MS
    assert log.psi_by_day[max(log.psi_by_day)] == alone.values
    assert alone.values["card_age_days"] > 0.25
    # A reference of a week and a window come first.
    assert min(log.psi_by_day) > start_ms // DAY_MS + 7


def interrupted(batches: Sequence[Labelled], after: int) -> Iterator[Labelled]:
    yield from batches[:after]
    raise KeyboardInterrupt


def test_an_interrupted_run_has_a_report_of_what_was_decided(simulated: list[Labelled]) -> None:
    report, run, _ = reported(interrupted(simulated, 10))

    assert (report.facts.finished, report.facts.events) == (False, run.result.events)
    assert sum(day.approve + day.review + day.decline for day in report.action_days) == (
        run.result.events
    )


@pytest.mark.parametrize("after", [0, 1])
def test_a_run_that_ends_at_once_has_a_report(simulated: list[Labelled], after: int) -> None:
    report, _, _ = reported(interrupted(simulated, after))

    assert (report.facts.finished, len(report.stretches) > 0) == (False, after > 0)
    assert report.delays == report.detections == report.feature_psi == ()


def test_the_facts_name_what_differs_and_nothing_of_the_machine() -> None:
    settings = Settings(
        review_score_min=0.2, state_dir="/somewhere", redis_url="redis://secret@host/0"
    )

    report, _, _ = reported([], settings=settings)

    assert report.facts.settings == (("review_score_min", "0.2", "0.15"),)
    assert report.facts.models == (("additive", "additive@0"), ("logistic", "logistic@0"))
    said = repr(report)
    assert "somewhere" not in said
    assert "secret" not in said
    assert str(Path.cwd()) not in said
