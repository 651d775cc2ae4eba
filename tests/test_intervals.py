"""Intervals against the numbers they are of, taken again on the drawn days one by one."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from models.compiled import kernel_source
from pipeline.durations import DAY_MS
from pipeline.evaluation import evaluate
from pipeline.quality.intervals import (
    CONFIDENCE,
    RANKING,
    Interval,
    Measured,
    bootstrap_by_day,
    ranked,
    wilson,
)


def measured(events: int = 3000, days: int = 20, seed: int = 1, decimals: int = 2) -> Measured:
    """Give judged events in which many scores are equal."""
    chance = np.random.default_rng(seed)
    scores = chance.beta(0.4, 4.0, events).round(decimals)
    is_fraud = chance.random(events) < scores
    times = np.sort(chance.integers(0, days * DAY_MS, events))
    card = chance.integers(0, 400, events)
    return Measured(
        scores, is_fraud, times, card, chance.integers(100, 9000, events),
        (times[is_fraud], card[is_fraud]),
    )  # fmt: skip


def again(found: Measured, drawn: np.ndarray) -> dict[str, float]:
    """Take the numbers again on so many copies of each day."""
    day = found.event_time_ms // DAY_MS
    rows = np.repeat(np.arange(len(day)), drawn[day])
    quality = evaluate(found.scores[rows], found.is_fraud[rows])
    return asdict(quality)


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_is_the_number_on_copies_of_the_days(seed: int) -> None:
    found = measured(events=400, seed=seed)
    drawn = np.random.default_rng(seed).multinomial(20, [1 / 20] * 20, size=3)
    order = np.argsort(-found.scores, kind="stable")
    day = found.event_time_ms[order] // DAY_MS
    given = np.empty((3, 4))
    plain = np.empty((3, 4))
    sorted_columns = (found.scores[order], found.is_fraud[order], day, drawn.astype(np.float64))

    ranked(*sorted_columns, 0.01, given)
    kernel_source(ranked)(*sorted_columns, 0.01, plain)

    assert given.tolist() == plain.tolist()
    for row, counts in zip(given.tolist(), drawn, strict=True):
        wanted = again(found, counts)
        assert row == pytest.approx([wanted[name] for name in RANKING])


def test_every_number_of_a_long_run_has_an_interval_around_it() -> None:
    found = measured()
    quality = asdict(
        evaluate(
            found.scores, found.is_fraud, event_time_ms=found.event_time_ms, card=found.card,
            amount_minor=found.amount_minor, alerts_a_day=10,
        )
    )  # fmt: skip

    intervals = bootstrap_by_day(found, alerts_a_day=10)

    assert set(intervals) == set(quality) - {"events", "frauds"}
    for name, interval in intervals.items():
        if not name.startswith("calibration"):
            assert interval.low < quality[name] < interval.high
    # Chance alone adds to a calibration error, so its copies lie higher.
    assert intervals["calibration_error"].high > quality["calibration_error"]


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # The Brier score of days that are independent: its standard error is known.
    found = measured(events=20_000, days=100)
    errors = np.square(found.scores - found.is_fraud)
    day = found.event_time_ms // DAY_MS
    means = np.bincount(day, errors) / np.bincount(day)

    interval = bootstrap_by_day(found)["brier"]

    half = norm.ppf(0.975) * means.std() / np.sqrt(100)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.2)


def test_the_same_seed_gives_the_same_and_a_short_run_nothing() -> None:
    assert bootstrap_by_day(measured()) == bootstrap_by_day(measured())
    assert bootstrap_by_day(measured(days=6)) == {}


@pytest.mark.parametrize("trials", [1, 2, 3, 7, 50, 1_000, 14_681, 1_754_155])
def test_wilson_is_that_of_scipy(trials: int) -> None:
    chance = np.random.default_rng(trials)
    for hits in {0, 1, trials, *chance.integers(0, trials + 1, 100).tolist()}:
        wanted = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="wilson")

        assert wilson(hits, trials) == Interval(wanted.low, wanted.high)


def test_wilson_by_hand() -> None:
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), with p = 0.3, n = 50.
    z, share, count = float(norm.ppf(0.975)), 0.3, 50
    middle = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count**2))

    found = wilson(15, 50)

    assert isinstance(found, Interval)
    assert found.low == pytest.approx((middle - half) / (1 + z * z / count))
    assert found.high == pytest.approx((middle + half) / (1 + z * z / count))
