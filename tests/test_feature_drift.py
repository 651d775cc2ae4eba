"""A feature that moves is named, one that follows the calendar is not, in bounded memory."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.drift import population_stability
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.feature_drift import FeaturePsi, band

NAMES = ["steady", "shifting", "rare", "hour"]


def stream(events: int, *, start_day: int = 0, days: int = 7, seed: int = 1) -> NDArray[np.int64]:
    chance = np.random.default_rng(seed)
    return np.sort(start_day * DAY_MS + chance.integers(0, days * DAY_MS, events))


def features(
    times: NDArray[np.int64], *, shift: float = 0.0, rare: float = 0.01, seed: int = 2
) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    columns = [
        chance.normal(size=len(times)),
        chance.normal(shift, 1.0, len(times)),
        chance.random(len(times)) < rare,
        times // HOUR_MS % 24,
    ]
    return np.column_stack(columns).astype(np.float32)


def pinned(**limits: int) -> FeaturePsi:
    """Give one whose reference is a week of 20,000 events."""
    psi = FeaturePsi(NAMES, **{"reference_events": 5_000, "window_events": 5_000, **limits})
    times = stream(20_000)
    psi.observe(features(times), times)
    assert not psi.is_pinned
    return psi


def test_the_feature_that_moved_is_named_and_no_other() -> None:
    psi = pinned()
    times = stream(5_000, start_day=7)
    psi.observe(features(times, seed=3), times)
    before = psi.values
    psi.observe(features(times, shift=1.0, seed=4), times)

    assert {name: band(value) for name, value in before.items()} == dict.fromkeys(NAMES, "stable")
    assert [name for name, value in psi.values.items() if value > 0.25] == ["shifting"]


def test_the_hours_of_a_window_that_is_shorter_than_a_day_are_no_drift() -> None:
    psi = pinned(window_events=1_000)
    night = 8 * DAY_MS + np.sort(np.random.default_rng(5).integers(0, 6 * HOUR_MS, 1_000))

    psi.observe(features(night), night)

    assert psi.values["hour"] < 0.1


def test_missing_values_have_a_bin_of_their_own() -> None:
    psi = pinned()
    times = stream(5_000, start_day=7)
    given = features(times)
    given[:2_500, 0] = np.nan
    psi.observe(given, times)

    assert psi.values["steady"] > 0.25
    assert psi.values["shifting"] < 0.1


def test_a_rare_value_that_becomes_frequent_is_seen() -> None:
    psi = pinned()
    times = stream(5_000, start_day=7)

    psi.observe(features(times, rare=0.3), times)

    assert psi.values["rare"] > 0.25


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_what_was_constant_and_is_not_any_more_is_seen(value: float) -> None:
    psi = FeaturePsi(["constant"], reference_events=100, window_events=100)
    times = stream(200, days=8)
    psi.observe(np.zeros((200, 1)), times)
    psi.observe(np.full((100, 1), value), stream(100, start_day=9))

    assert band(psi.values["constant"]) == "drift"


def test_the_reference_is_a_week_at_least_and_then_held() -> None:
    psi = FeaturePsi(NAMES, reference_events=1_000, window_events=500)
    times = stream(20_000, days=10)
    psi.observe(features(times), times)
    held = psi.reference_count

    assert psi.is_pinned
    assert (times < times[0] + 7 * DAY_MS).sum() == held
    psi.observe(features(times), times)
    assert psi.reference_count == held


def test_a_quiet_stream_waits_for_enough_events() -> None:
    psi = FeaturePsi(NAMES, reference_events=1_000, window_events=100)
    times = stream(1_500, days=30)
    psi.observe(features(times), times)

    assert (psi.reference_count, psi.events) == (1_000, 100)


def test_no_value_before_the_window_is_full() -> None:
    psi = pinned()
    times = stream(4_999, start_day=7)
    psi.observe(features(times), times)

    assert (psi.events, psi.values) == (4_999, {})


@pytest.mark.parametrize("batch", [1, 7, 1_024])
def test_batches_make_no_difference(batch: int) -> None:
    times = stream(3_000, days=20)
    rows = features(times)
    whole, parts = (FeaturePsi(NAMES, reference_events=800, window_events=500) for _ in range(2))
    whole.observe(rows, times)
    for start in range(0, len(times), batch):
        parts.observe(rows[start : start + batch], times[start : start + batch])

    assert whole.values == parts.values
    assert whole.reference_count == parts.reference_count


def test_the_window_forgets_and_its_counts_are_those_of_its_events() -> None:
    psi = FeaturePsi(["amount"], reference_events=1_000, window_events=300)
    chance = np.random.default_rng(6)
    times = stream(1_000, days=7)
    psi.observe(chance.normal(size=(1_000, 1)), times)
    for _ in range(20):
        later = stream(170, start_day=8)
        psi.observe(chance.normal(3.0, 1.0, (170, 1)), later)
    shifted = psi.values["amount"]
    psi.observe(chance.normal(size=(1_000, 1)), stream(1_000, start_day=9))

    assert shifted > 1.0
    assert psi.values["amount"] < 0.2
    assert psi.events == 300


def test_histograms_are_compared_over_their_last_axis() -> None:
    both = population_stability([[10, 20], [30, 5]], [[20, 10], [30, 5]])

    assert both.tolist() == pytest.approx([population_stability([10, 20], [20, 10]), 0.0])
