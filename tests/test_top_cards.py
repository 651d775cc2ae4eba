"""Card precision as labels arrive is that of the whole run, once its days are mature."""

import numpy as np
import pytest

from pipeline.durations import DAY_MS
from pipeline.quality.cards import card_precision
from pipeline.top_cards import COMPROMISED_MAX, CardPrecision


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_card_precision_of_the_mature_days(seed: int) -> None:
    chance = np.random.default_rng(seed)
    events, top = 4000, 20
    time_ms = np.sort(chance.integers(0, 12 * DAY_MS, events))
    # Few different scores, so that equal ones are common.
    scores, cards = chance.integers(0, 30, events) / 30, chance.integers(100, 300, events)
    is_fraud = chance.random(events) < scores / 3
    live = CardPrecision(top=top, mature_days=3)
    for row in range(events):
        live.observe_decision(int(time_ms[row]), str(cards[row]), float(scores[row]))
    for row in chance.permutation(events):
        live.observe_label(int(time_ms[row]), str(cards[row]), is_fraud=bool(is_fraud[row]))

    mature = time_ms < 9 * DAY_MS
    wanted = card_precision(
        scores[mature], is_fraud[mature], event_time_ms=time_ms[mature], card=cards[mature], top=top
    )

    assert live.days == 9
    assert live.value == pytest.approx(wanted)


def test_a_verdict_taken_back_leaves_another_fraud_of_the_card() -> None:
    live = CardPrecision(top=1, mature_days=1)
    live.observe_decision(0, "c1", 0.9)
    live.observe_decision(DAY_MS, "c1", 0.9)
    for _ in range(2):
        live.observe_label(0, "c1", is_fraud=True)
    live.observe_label(0, "c1", is_fraud=False)
    assert live.value == 1.0

    live.observe_label(0, "c1", is_fraud=False, corrects=True)
    assert live.value == 1.0
    live.observe_label(0, "c1", is_fraud=False, corrects=True)
    assert live.value == 0.0


def test_an_old_day_goes_and_does_not_come_back() -> None:
    live = CardPrecision(top=1, mature_days=1, days_kept=3)
    for day in range(10):
        live.observe_decision(day * DAY_MS, "c1", 0.5)
    live.observe_decision(0, "c2", 0.9)
    live.observe_label(0, "c2", is_fraud=True)

    assert live.days == 2
    assert live.value == 0.0


def test_the_compromised_cards_of_a_day_are_bounded() -> None:
    live = CardPrecision(top=1, mature_days=1)
    live.observe_decision(0, "last", 0.9)
    live.observe_decision(DAY_MS, "last", 0.9)
    for number in range(COMPROMISED_MAX):
        live.observe_label(0, f"c{number}", is_fraud=True)
    live.observe_label(0, "last", is_fraud=True)

    assert live.value == 0.0
