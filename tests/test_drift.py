"""Drift is found where it is, named by its moment, and not found where it is not."""

import numpy as np
import pytest

from pipeline.drift import DETECTIONS_KEPT, ErrorDrift, ScorePsi, population_stability


def errors_that_rise(at: int, events: int) -> tuple[list[float], list[bool]]:
    chance = np.random.default_rng(7)
    rates = np.where(np.arange(events) < at, 0.02, 0.3)
    return [0.02] * events, (chance.random(events) < rates).tolist()


def test_a_rise_of_the_error_is_found_soon_after_it_and_named() -> None:
    scores, is_fraud = errors_that_rise(at=5000, events=8000)
    detector = ErrorDrift()

    detector.observe(scores, is_fraud, range(0, 8_000_000, 1000))

    first = detector.detections[0]
    assert first.direction == "rise"
    assert 5_000_000 < first.event_time_ms < 5_500_000
    assert first.error_after > first.error_before
    assert sum(detector.counts.values()) == len(detector.detections)
    assert detector.last["adwin", "rise"] == first


def test_page_hinkley_finds_the_rise_as_well_and_says_what_it_was_before_and_after() -> None:
    scores, is_fraud = errors_that_rise(at=5000, events=8000)
    detector = ErrorDrift()

    detector.observe(scores, is_fraud, range(0, 8_000_000, 1000))

    found = detector.last["page_hinkley", "rise"]
    assert 5_000_000 < found.event_time_ms < 5_500_000
    assert found.error_before == pytest.approx(0.02, abs=0.01)
    assert found.error_after > 0.05
    assert detector.counts["page_hinkley", "rise"] == 1


def test_page_hinkley_finds_a_model_that_got_better() -> None:
    detector = ErrorDrift()

    detector.observe([0.5] * 3000 + [0.02] * 2000, [False] * 5000, range(5000))

    assert detector.counts["page_hinkley", "fall"] == 1
    assert 3000 < detector.last["page_hinkley", "fall"].event_time_ms < 3500


def test_a_steady_error_of_a_good_model_raises_no_false_alarm() -> None:
    chance = np.random.default_rng(3)
    scores = chance.beta(0.05, 10, 200_000)
    detector = ErrorDrift()

    detector.observe(scores, chance.random(len(scores)) < scores, range(len(scores)))

    assert sum(detector.counts.values()) == 0


def test_a_steady_error_is_no_drift() -> None:
    scores, is_fraud = errors_that_rise(at=20_000, events=20_000)
    detector = ErrorDrift()

    detector.observe(scores, is_fraud, range(20_000))

    assert set(detector.counts.values()) == {0}
    assert (detector.events, detector.window_events) == (20_000, 20_000)
    assert detector.error_mean == pytest.approx(0.02, abs=0.01)


def test_batches_make_no_difference() -> None:
    scores, is_fraud = errors_that_rise(at=2000, events=4000)
    whole, parts = ErrorDrift(), ErrorDrift()
    whole.observe(scores, is_fraud, range(4000))
    for start in range(0, 4000, 37):
        rows = slice(start, start + 37)
        parts.observe(scores[rows], is_fraud[rows], range(4000)[rows])

    assert parts.detections == whole.detections


def test_the_detections_kept_are_bounded_and_the_count_goes_on() -> None:
    detector = ErrorDrift(delta=0.5)
    high_and_low = ([0.0] * 200 + [1.0] * 200) * 150

    detector.observe(high_and_low, [False] * len(high_and_low), range(len(high_and_low)))

    assert sum(detector.counts.values()) > DETECTIONS_KEPT
    assert len(detector.detections) == DETECTIONS_KEPT


def test_nothing_seen_has_no_error() -> None:
    detector = ErrorDrift()

    assert (detector.error_mean, detector.window_events, detector.detections) == (None, 0, ())


def test_psi_is_small_for_the_same_scores_and_large_for_others() -> None:
    chance = np.random.default_rng(1)
    psi = ScorePsi(reference_events=5000, window_events=5000)
    psi.observe(chance.beta(1, 20, 10_000))
    same = psi.value
    psi.observe(chance.beta(3, 20, 5000))
    other = psi.value

    assert same is not None
    assert other is not None
    assert same < 0.02
    assert other > 0.25


def test_psi_needs_the_whole_reference_and_a_full_window() -> None:
    psi = ScorePsi(reference_events=10, window_events=5)
    psi.observe(np.linspace(0, 1, 14))

    assert (psi.value, psi.reference_count, psi.events) == (None, 10, 4)
    psi.observe([0.5])
    assert psi.value is not None


def test_the_reference_stays_and_the_window_moves() -> None:
    psi = ScorePsi(reference_events=100, window_events=100)
    psi.observe(np.linspace(0, 1, 100))
    psi.observe(np.full(100, 0.99))
    shifted = psi.value
    psi.observe(np.linspace(0, 1, 100))

    assert shifted is not None
    assert shifted > 0.25
    assert psi.value == pytest.approx(0.0)


def test_scores_that_are_all_equal_have_one_bin_on_either_side() -> None:
    psi = ScorePsi(reference_events=100, window_events=100)
    psi.observe([0.5] * 200)
    same = psi.value
    psi.observe([0.1] * 100)

    assert same == pytest.approx(0.0)
    assert psi.value is not None
    assert psi.value > 0.25


def test_psi_against_its_formula_and_finite_with_an_empty_bin() -> None:
    expected, actual = np.array([300.5, 700.5]) / 1001, np.array([500.5, 500.5]) / 1001
    by_hand = float(((actual - expected) * np.log(actual / expected)).sum())

    assert population_stability([300, 700], [500, 500]) == pytest.approx(by_hand)
    assert np.isfinite(population_stability([0, 1000], [1000, 0]))
