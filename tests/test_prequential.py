"""The window holds the latest labelled events, the totals all of them."""

import numpy as np
import pytest

from pipeline.evaluation import evaluate
from pipeline.prequential import SLOW_LABEL_MS, PrequentialWindow


def test_an_empty_window_has_counts_and_no_quality() -> None:
    quality = PrequentialWindow(limit=10).quality

    assert (quality.events, quality.frauds) == (0, 0)
    assert quality.log_loss is quality.brier is quality.average_precision is None
    assert quality.label_delay_ms_median is quality.slow_label_share is None


@pytest.mark.parametrize("batch", [1, 7, 100, 250])
def test_the_window_is_the_latest_events_whatever_the_batches(batch: int) -> None:
    chance = np.random.default_rng(batch)
    scores = chance.random(500)
    is_fraud, delay_ms = chance.random(500) < scores, chance.integers(0, 10**9, 500)
    window = PrequentialWindow(limit=100)
    for start in range(0, 500, batch):
        rows = slice(start, start + batch)
        window.observe(scores[rows], is_fraud[rows], delay_ms[rows])

    wanted, found = evaluate(scores[-100:], is_fraud[-100:]), window.quality

    assert (found.events, found.frauds) == (100, wanted.frauds)
    assert found.log_loss == pytest.approx(wanted.log_loss)
    assert found.brier == pytest.approx(wanted.brier)
    assert found.average_precision == pytest.approx(wanted.average_precision)
    assert found.label_delay_ms_median == np.median(delay_ms[-100:])


def test_the_totals_are_over_all_events() -> None:
    scores, is_fraud = np.array([0.9, 0.2, 0.4]), np.array([True, False, True])
    window = PrequentialWindow(limit=1)
    for row in range(3):
        window.observe(scores[row : row + 1], is_fraud[row : row + 1], [0])

    wanted = evaluate(scores, is_fraud)

    assert (window.totals.events, window.totals.frauds) == (3, 2)
    assert window.totals.log_loss_sum / 3 == pytest.approx(wanted.log_loss)
    assert window.totals.brier_sum / 3 == pytest.approx(wanted.brier)


def test_the_slow_labels_are_a_share_of_the_window() -> None:
    window = PrequentialWindow(limit=10)
    window.observe([0.1] * 4, [False] * 4, [0, SLOW_LABEL_MS - 1, SLOW_LABEL_MS, 10**12])

    assert window.quality.slow_label_share == 0.5


def test_the_quality_is_computed_once_for_each_change() -> None:
    window = PrequentialWindow(limit=10)
    window.observe([0.1], [False], [0])
    first = window.quality

    assert window.quality is first
    window.observe([], [], [])
    assert window.quality is first
    window.observe([0.1], [False], [0])
    assert window.quality is not first


def test_a_label_taken_back_corrects_the_window_and_not_the_totals() -> None:
    window = PrequentialWindow(limit=10)
    window.observe([0.9, 0.1], [True, False], [0, 0], examples=[(0, 1), (0, 2)])

    assert window.revise((0, 3), (0, 1), is_fraud=False)
    assert (window.quality.frauds, window.totals.frauds) == (0, 1)
    assert window.revise((0, 4), (0, 3), is_fraud=True)
    assert window.quality.frauds == 1
    assert not window.revise((0, 5), (0, 1), is_fraud=False)


def test_a_label_that_left_the_window_corrects_nothing() -> None:
    window = PrequentialWindow(limit=2)
    window.observe([0.9] * 3, [True] * 3, [0] * 3, examples=[(0, 1), (0, 2), (0, 3)])

    assert not window.revise((0, 4), (0, 1), is_fraud=False)
    assert window.revise((0, 5), (0, 2), is_fraud=False)
    window.observe([0.9] * 2, [True] * 2, [0] * 2, examples=[(0, 6), (0, 7)])
    assert not window.revise((0, 8), (0, 5), is_fraud=True)
    assert window.quality.frauds == 2


def test_a_batch_of_wrong_lengths_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        PrequentialWindow(limit=2).observe([0.1], [True, False], [0])
    with pytest.raises(AssertionError):
        PrequentialWindow(limit=2).observe([0.1], [True], [0, 0])
