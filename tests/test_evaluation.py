"""Quality against scikit-learn where it has the number, and by hand where it has not."""

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from pipeline.durations import DAY_MS
from pipeline.evaluation import (
    calibration_error,
    calibration_error_equal_mass,
    evaluate,
    quality_over_time,
)
from pipeline.quality.cards import card_precision


def stream(events: int, seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    chance = np.random.default_rng(seed)
    scores = chance.beta(0.3, 6.0, events)
    return scores, chance.random(events) < scores


def test_the_numbers_are_those_of_scikit_learn() -> None:
    scores, is_fraud = stream(5000)

    quality = evaluate(scores, is_fraud)

    assert quality.average_precision == average_precision_score(is_fraud, scores)
    assert quality.roc_auc == roc_auc_score(is_fraud, scores)
    assert quality.log_loss == pytest.approx(log_loss(is_fraud, scores))
    assert quality.brier == pytest.approx(brier_score_loss(is_fraud, scores))
    assert (quality.events, quality.frauds) == (5000, int(is_fraud.sum()))


def test_certain_scores_have_a_finite_log_loss() -> None:
    scores, is_fraud = [0.0, 1.0, 0.0, 1.0], [True, False, False, True]

    assert evaluate(scores, is_fraud).log_loss == pytest.approx(
        log_loss(is_fraud, scores), rel=1e-3
    )


def test_nothing_has_no_quality() -> None:
    quality = evaluate([], [], event_time_ms=[], card=[])

    assert (quality.events, quality.frauds) == (0, 0)
    assert quality.average_precision is quality.roc_auc is quality.log_loss is None
    assert quality.brier is quality.calibration_error is quality.card_precision_top_100 is None


@pytest.mark.parametrize("is_fraud", [[False, False], [True, True]])
def test_ranking_is_not_defined_with_one_kind_only(is_fraud: list[bool]) -> None:
    quality = evaluate([0.2, 0.4], is_fraud)

    assert quality.average_precision is quality.roc_auc is None
    assert quality.log_loss is not None
    assert quality.brier is not None


def test_calibration_error_is_the_mean_distance_over_bins_by_hand() -> None:
    # Bin 0 (scores below 1/15): mean score 0.05, no fraud. Bin 14: mean score 0.95, half are fraud.
    scores = np.array([0.04, 0.06, 0.94, 0.96])
    is_fraud = np.array([False, False, True, False])

    assert calibration_error(scores, is_fraud) == pytest.approx((2 * 0.05 + 2 * 0.45) / 4)


def test_a_score_of_one_falls_into_the_last_bin() -> None:
    assert calibration_error(np.array([1.0]), np.array([True])) == 0.0


def test_card_precision_by_hand() -> None:
    # Day 0: cards 1 (0.9), 2 (0.8), 3 (0.7): of the top two, 2 is compromised, by another of its
    # transactions than the suspicious one. Day 1: cards 1 and 3, both compromised.
    time_ms = [0, 1, 2, DAY_MS - 1, DAY_MS, DAY_MS + 1]
    card = [1, 2, 3, 2, 1, 3]
    scores = [0.9, 0.8, 0.7, 0.1, 0.2, 0.3]
    is_fraud = [False, False, True, True, True, True]

    assert card_precision(scores, is_fraud, event_time_ms=time_ms, card=card, top=2) == 0.75


def test_card_precision_puts_the_lower_number_of_equal_cards_first() -> None:
    time_ms, scores, is_fraud = [0, 0, 0], [0.5, 0.5, 0.5], [True, False, False]

    lowest_is_fraud = card_precision(scores, is_fraud, event_time_ms=time_ms, card=[1, 2, 3], top=1)
    highest_is_fraud = card_precision(
        scores, is_fraud, event_time_ms=time_ms, card=[3, 2, 1], top=1
    )

    assert (lowest_is_fraud, highest_is_fraud) == (1.0, 0.0)


def test_card_precision_agrees_with_a_plain_loop_in_any_order_of_rows() -> None:
    chance = np.random.default_rng(3)
    scores, is_fraud = stream(3000, seed=3)
    time_ms, card = chance.integers(0, 5 * DAY_MS, 3000), chance.integers(0, 300, 3000)
    wanted = []
    for day in range(5):
        cards: dict[int, tuple[float, bool]] = {}
        for row in np.flatnonzero(time_ms // DAY_MS == day):
            highest, compromised = cards.get(int(card[row]), (0.0, False))
            seen = (max(highest, scores[row]), compromised or bool(is_fraud[row]))
            cards[int(card[row])] = seen
        top = sorted(cards, key=lambda number: (-cards[number][0], number))[:100]
        wanted.append(sum(cards[number][1] for number in top) / 100)

    found = evaluate(scores, is_fraud, event_time_ms=time_ms, card=card).card_precision_top_100

    assert found == pytest.approx(np.mean(wanted))


def test_blocks_of_equal_count_cover_every_row_once() -> None:
    scores, is_fraud = stream(1003)

    blocks = quality_over_time(scores, is_fraud, blocks=10)

    assert len(blocks) == 10
    assert [block.first for block in blocks[1:]] == [block.last + 1 for block in blocks[:-1]]
    assert (blocks[0].first, blocks[-1].last) == (0, 1002)
    assert {block.events for block in blocks} <= {100, 101}
    assert sum(block.frauds for block in blocks) == is_fraud.sum()


def test_more_blocks_than_rows_are_one_for_each_row() -> None:
    assert len(quality_over_time([0.1, 0.2], [True, False], blocks=20)) == 2
    assert quality_over_time([], []) == ()


def test_blocks_of_a_period_leave_out_empty_ones_and_keep_a_late_event() -> None:
    time_ms = [0, 10, 250, 90, 260]

    blocks = quality_over_time([0.1] * 5, [False] * 5, event_time_ms=time_ms, period_ms=100)

    assert [(block.first, block.last) for block in blocks] == [(0, 1), (2, 4)]


@pytest.mark.slow
def test_a_long_run_is_judged_in_seconds() -> None:
    scores, is_fraud = stream(1_750_000)
    chance = np.random.default_rng(5)
    time_ms, card = np.sort(chance.integers(0, 183 * DAY_MS, 1_750_000)), chance.integers(0, 5000)
    cards = (np.arange(1_750_000) * 7919 + card) % 5000
    started = time.process_time()

    assert evaluate(scores, is_fraud, event_time_ms=time_ms, card=cards).roc_auc is not None
    assert time.process_time() - started < 20.0


def test_nothing_of_a_budget_is_defined_without_an_event() -> None:
    quality = evaluate([], [], event_time_ms=[], card=[], amount_minor=[])

    assert quality.calibration_error_equal_mass is quality.card_precision_handbook is None
    assert quality.recall_in_top_frauds is quality.recall_at_1_percent is None
    assert quality.recall_at_budget is quality.value_detection_rate is None


def test_bins_of_equal_mass_are_those_of_a_plain_loop() -> None:
    scores, is_fraud = stream(1500, seed=9)
    # 1,500 different scores cut into 15: a hundred of the sorted ones each.
    order = np.argsort(scores)
    parts = [order[first : first + 100] for first in range(0, 1500, 100)]
    wanted = sum(abs((scores[part] - is_fraud[part]).sum()) for part in parts) / 1500

    assert calibration_error_equal_mass(scores, is_fraud) == pytest.approx(wanted)


def test_equal_scores_share_a_bin_of_equal_mass() -> None:
    scores, is_fraud = np.full(40, 0.25), np.arange(40) % 4 == 0

    assert calibration_error_equal_mass(scores, is_fraud) == pytest.approx(0.0)


def test_recall_in_the_top_of_the_frauds_is_the_point_where_precision_meets_recall() -> None:
    scores, is_fraud = stream(4000, seed=2)

    quality = evaluate(scores, is_fraud)

    highest = np.argsort(-scores)[: is_fraud.sum()]
    assert quality.recall_in_top_frauds == is_fraud[highest].sum() / is_fraud.sum()
    assert quality.recall_at_1_percent == is_fraud[np.argsort(-scores)[:40]].sum() / is_fraud.sum()


def test_a_budget_is_of_each_day_and_its_money_is_counted() -> None:
    # Two alerts a day: day 0 finds the fraud of 30.00 and misses that of 10.00, day 1 both.
    time_ms = [0, 1, 2, 3, DAY_MS, DAY_MS + 1]
    scores = [0.9, 0.8, 0.7, 0.1, 0.2, 0.3]
    is_fraud = [True, False, True, False, True, True]
    amounts = [3000, 500, 1000, 500, 100, 200]

    quality = evaluate(
        scores, is_fraud, event_time_ms=time_ms, amount_minor=amounts, alerts_a_day=2
    )

    assert quality.recall_at_budget == pytest.approx(3 / 4)
    assert quality.value_detection_rate == pytest.approx(3300 / 4300)


def test_of_equal_scores_the_earlier_is_looked_at() -> None:
    found = evaluate(
        [0.5] * 4, [False, True, True, True], event_time_ms=[0, 1, 2, 3], alerts_a_day=2
    )

    assert found.recall_at_budget == pytest.approx(1 / 3)


def handbook_rule(
    scores: NDArray[np.float64],
    is_fraud: NDArray[np.bool_],
    day: NDArray[np.int64],
    card: NDArray[np.int64],
    *,
    first_day: int,
    top: int,
) -> float:
    """Give the Handbook's card precision as QUALITY.md words it, event by event."""
    shares = []
    for today in range(first_day, int(day.max()) + 1):
        begin = first_day + (today - first_day) // 7 * 7
        if today == begin:
            detected: set[int] = set()
        removed = set(detected)
        for row in np.flatnonzero(is_fraud):
            if begin - 14 <= day[row] <= today - 8:
                removed.add(int(card[row]))
        cards: dict[int, tuple[float, bool]] = {}
        for row in np.flatnonzero(day == today):
            if int(card[row]) not in removed:
                highest, compromised = cards.get(int(card[row]), (0.0, False))
                cards[int(card[row])] = (
                    max(highest, scores[row]), compromised or bool(is_fraud[row]),
                )  # fmt: skip
        looked_at = sorted(cards, key=lambda number: (-cards[number][0], number))[:top]
        found = {number for number in looked_at if cards[number][1]}
        detected |= found
        shares.append(len(found) / top)
    return float(np.mean(shares))


def test_card_precision_by_the_rule_of_the_handbook_agrees_with_a_plain_loop() -> None:
    chance = np.random.default_rng(8)
    scores, is_fraud = stream(6000, seed=8)
    day, card = chance.integers(0, 40, 6000), chance.integers(0, 150, 6000)
    judged = day >= 18

    found = evaluate(
        scores[judged],
        is_fraud[judged],
        event_time_ms=day[judged] * DAY_MS + 5,
        card=card[judged],
        frauds_known=(day[is_fraud] * DAY_MS + 5, card[is_fraud]),
    )

    wanted = handbook_rule(scores, is_fraud, day, card, first_day=18, top=100)
    assert found.card_precision_handbook == pytest.approx(wanted)
    assert found.card_precision_top_100 is not None
    assert 0.0 < wanted < found.card_precision_top_100


def test_a_card_whose_fraud_is_known_is_removed_and_a_detected_one_counts_once() -> None:
    # Card 1 is found on day 14 and again on day 15; card 2 was known since day 6 (14 - 8).
    day = np.array([6, 14, 14, 15, 21])
    card, is_fraud = np.array([2, 1, 2, 1, 1]), np.array([True] * 5)
    judged = day >= 14

    found = evaluate(
        [0.9] * 4,
        is_fraud[judged],
        event_time_ms=day[judged] * DAY_MS,
        card=card[judged],
        frauds_known=(day * DAY_MS, card),
    )

    # Day 14: card 1. Day 15: none. Day 21 begins a block in which the frauds up to day 13 are
    # known, and what was detected before is forgotten: card 1 again.
    assert found.card_precision_handbook == pytest.approx((1 + 0 + 1) / 3 / 100)
