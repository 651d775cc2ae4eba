"""Versions are judged by day, as a whole run would be, and only so many days are shown."""

import numpy as np
import pytest

from pipeline.durations import DAY_MS
from pipeline.evaluation import evaluate
from pipeline.label_maturity import DAYS_KEPT
from pipeline.version_quality import VersionQuality


def judged(events: int, days: int, seed: int = 1) -> tuple[list[list[float]], ...]:
    chance = np.random.default_rng(seed)
    scores = chance.beta(0.3, 5, events)
    return scores, chance.random(events) < scores, chance.integers(0, days * DAY_MS, events)


def test_a_day_is_judged_as_if_it_were_a_run() -> None:
    scores, is_fraud, times = judged(20_000, days=3)
    quality = VersionQuality()
    quality.observe("additive", scores, is_fraud, times, times // 1000)

    for number, shown in enumerate(quality.shown("additive")):
        rows = times // DAY_MS == number
        whole = evaluate(scores[rows], is_fraud[rows])
        assert (shown.day, shown.labels) == (f"1970-01-0{number + 1}", rows.sum())
        assert shown.log_loss == pytest.approx(whole.log_loss)
        assert shown.brier == pytest.approx(whole.brier)
        # Scores within a bin of 0.05 of log-odds count as equal.
        assert shown.average_precision == pytest.approx(whole.average_precision, abs=0.005)
        assert shown.offset_first == times[rows].min() // 1000
        assert shown.offset_last == times[rows].max() // 1000


def test_the_order_of_labels_makes_no_difference() -> None:
    scores, is_fraud, times = judged(6_000, days=3)
    order = np.random.default_rng(2).permutation(len(scores))
    sorted_, mixed = VersionQuality(), VersionQuality()
    sorted_.observe("m", scores, is_fraud, times, times)
    for rows in np.array_split(order, 50):
        mixed.observe("m", scores[rows], is_fraud[rows], times[rows], times[rows])

    for one, other in zip(sorted_.shown("m"), mixed.shown("m"), strict=True):
        assert one.average_precision == other.average_precision
        assert one.log_loss == pytest.approx(other.log_loss)


def test_a_corrected_verdict_counts_as_the_later_one() -> None:
    first, other = VersionQuality(labels_min=1), VersionQuality(labels_min=1)
    first.observe("m", [0.9, 0.2], [True, False], [5, 6], [1, 1])
    first.correct("m", 0.2, 6, is_fraud=True)
    other.observe("m", [0.9, 0.2], [True, True], [5, 6], [1, 1])
    # Whose first verdicts were not seen: of another day, and of a score that nobody gave.
    first.correct("m", 0.2, 99 * DAY_MS, is_fraud=True)
    first.correct("m", 0.7, 6, is_fraud=True)

    assert first.shown("m")[0].frauds == 2
    assert first.shown("m")[0].log_loss == pytest.approx(other.shown("m")[0].log_loss)


def test_only_the_newest_days_with_enough_labels_are_shown() -> None:
    quality = VersionQuality(days_shown=2, labels_min=10)
    for day, labels in enumerate([10, 10, 10, 9]):
        quality.observe(
            "m", [0.1] * labels, [False] * labels, [day * DAY_MS] * labels, [0] * labels
        )

    assert [shown.day for shown in quality.shown("m")] == ["1970-01-02", "1970-01-03"]
    assert [shown.average_precision for shown in quality.shown("m")] == [None, None]
    assert quality.shown("unheard") == []


def test_the_days_kept_are_bounded() -> None:
    quality = VersionQuality(days_shown=1_000, labels_min=1)
    for day in range(DAYS_KEPT + 30):
        quality.observe("m", [0.1], [False], [day * DAY_MS], [0])

    assert len(quality.shown("m")) == DAYS_KEPT


def test_scores_of_zero_and_one_have_a_bin() -> None:
    quality = VersionQuality(labels_min=1)
    quality.observe("m", [0.0, 1.0], [False, True], [0, 0], [0, 0])

    assert quality.shown("m")[0].average_precision == 1.0
