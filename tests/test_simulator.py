"""The simulator: the Handbook's shares, the same bits from the same seed, bounded memory."""

import re
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.card_numbers import is_card_number
from pipeline.errors import SettingError
from producers.batch import EventBatch, joined
from producers.simulator import (
    BURST_AMOUNT_MINOR_MAX,
    BURST_CARDS,
    CARD_TESTING,
    COMPROMISED_TERMINAL,
    GENUINE,
    HOUR_SECONDS,
    LARGE_AMOUNT,
    LARGE_AMOUNT_MINOR,
    POPULATION_MAX,
    STOLEN_CARD,
    Drift,
    SimulatorOptions,
    expected_transactions,
    simulate,
)

SMALL = SimulatorOptions(customers=300, terminals=400, days=12, seed=11)
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@pytest.fixture(scope="module")
def handbook_world() -> EventBatch:
    """Eight weeks of the Handbook's own size."""
    return joined(list(simulate(SimulatorOptions(days=56))))


def scenarios(batch: EventBatch) -> np.ndarray:
    assert batch.scenario is not None
    return batch.scenario


def same(left: EventBatch, right: EventBatch) -> bool:
    lists = ("transaction_id", "keys", "currency", "categories")
    arrays = ("event_time_ms", "amount_minor", "is_fraud", "scenario")
    return all(getattr(left, name) == getattr(right, name) for name in lists) and all(
        getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in arrays
    )


def all_same(left: Iterable[EventBatch], right: Iterable[EventBatch]) -> bool:
    return all(same(one, other) for one, other in zip(left, right, strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    assert all_same(simulate(SMALL), simulate(SMALL))
    assert not same(next(simulate(SMALL)), next(simulate(replace(SMALL, seed=12))))


def test_a_day_made_alone_is_the_day_of_the_whole_run() -> None:
    options = replace(SMALL, drift=Drift(day=5), burst_days=(9,), bursts_a_day=0.5)
    whole = list(simulate(options))

    for day in range(options.days):
        assert same(whole[day], next(simulate(replace(options, first_day=day, days=1))))


def test_batches_are_days_in_time_order_with_ids_of_their_own() -> None:
    days = list(simulate(SMALL))
    whole = joined(days)

    assert len(days) == SMALL.days
    assert (np.diff(whole.event_time_ms) >= 0).all()
    assert len(set(whole.transaction_id)) == len(whole)
    for ids in (whole.transaction_id, *whole.keys):
        assert all(ID.fullmatch(text) and not is_card_number(text) for text in ids)
        assert all(sum(map(str.isdigit, text)) < 13 for text in ids)


def test_volume_amounts_and_hours_are_those_of_the_handbook(handbook_world: EventBatch) -> None:
    expected = expected_transactions(SimulatorOptions(days=56))
    seconds = handbook_world.event_time_ms % 86_400_000 / 1_000

    assert len(handbook_world) == pytest.approx(expected, rel=0.03)
    # The Handbook's data: mean amount 53.6, 9,585 transactions a day.
    assert handbook_world.amount_minor.mean() / 100 == pytest.approx(53.6, rel=0.05)
    assert len(handbook_world) / 56 == pytest.approx(9_585, rel=0.05)
    assert seconds.mean() == pytest.approx(43_200, rel=0.01)
    assert (handbook_world.amount_minor >= 0).all()


def test_after_a_month_about_one_in_a_hundred_is_a_fraud(handbook_world: EventBatch) -> None:
    day = (handbook_world.event_time_ms - handbook_world.event_time_ms[0]) // 86_400_000
    late = handbook_world.is_fraud[day >= 30]

    # The Handbook's 0.84 % is over 183 days, whose first month has fewer.
    assert 0.0065 < handbook_world.is_fraud.mean() < 0.0095
    assert 0.0075 < late.mean() < 0.011


def test_the_scenarios_have_the_shares_of_the_handbook(handbook_world: EventBatch) -> None:
    shares = np.bincount(scenarios(handbook_world), minlength=5) / len(handbook_world)

    # The Handbook's 183 days: 0.055, 0.52 and 0.26 in a hundred.
    assert shares[LARGE_AMOUNT] == pytest.approx(0.00055, rel=0.25)
    assert shares[COMPROMISED_TERMINAL] == pytest.approx(0.0046, rel=0.3)
    assert shares[STOLEN_CARD] == pytest.approx(0.0025, rel=0.3)
    assert shares[CARD_TESTING] == 0


def test_what_is_fraud_follows_from_the_scenario(handbook_world: EventBatch) -> None:
    scenario = scenarios(handbook_world)
    large = handbook_world.amount_minor > LARGE_AMOUNT_MINOR

    assert ((scenario != GENUINE) == (handbook_world.is_fraud == 1)).all()
    assert large[scenario == LARGE_AMOUNT].all()
    assert not large[scenario == GENUINE].any()


def test_every_transaction_is_at_a_terminal_in_reach_or_at_the_nearest() -> None:
    few = joined(list(simulate(replace(SMALL, customers=50, terminals=3, radius=1.0))))
    many = joined(list(simulate(replace(SMALL, customers=50, terminals=5_000, radius=1.0))))

    assert all(len(used) == 1 for used in terminals_by_card(few).values())
    assert any(len(used) > 1 for used in terminals_by_card(many).values())


def terminals_by_card(batch: EventBatch) -> dict[str, set[str]]:
    used: dict[str, set[str]] = {}
    for card, terminal in zip(*batch.keys, strict=True):
        used.setdefault(card, set()).add(terminal)
    return used


def test_a_radius_of_everything_reaches_all_terminals() -> None:
    options = replace(SMALL, customers=100, terminals=20, radius=200.0, days=30)

    assert len(set(joined(list(simulate(options))).keys[1])) == 20


def test_the_smallest_world_works() -> None:
    world = SimulatorOptions(customers=1, terminals=1, days=40, burst_days=(3,))

    assert set(joined(list(simulate(world))).keys[0]) == {"c0"}


def test_memory_does_not_grow_with_the_days() -> None:
    assert peak_bytes(days=40) < 1.3 * peak_bytes(days=8)


def peak_bytes(*, days: int) -> int:
    tracemalloc.start()
    try:
        for _ in simulate(SimulatorOptions(customers=1_000, terminals=500, days=days)):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_drift_changes_amounts_pattern_and_mix_from_its_day_on() -> None:
    options = SimulatorOptions(customers=2_000, terminals=4_000, days=60)
    usual = list(simulate(options))
    drifted = list(simulate(replace(options, drift=Drift(day=30))))
    before, after = joined(usual[30:]), joined(drifted[30:])
    low, high = Drift(day=30).band_minor
    in_band = (after.amount_minor >= low) & (after.amount_minor < high)

    assert all_same(usual[:30], drifted[:30])
    assert after.amount_minor.mean() == pytest.approx(1.3 * before.amount_minor.mean(), rel=0.05)
    assert in_band[scenarios(after) == LARGE_AMOUNT].all()
    assert (after.is_fraud[after.amount_minor > LARGE_AMOUNT_MINOR] == 0).any()
    assert fraud_ratio(after) > 1.5 * fraud_ratio(before)


def fraud_ratio(batch: EventBatch) -> float:
    """How many stolen cards' frauds there are for one at a compromised terminal."""
    counts = np.bincount(scenarios(batch), minlength=5)
    return float(counts[STOLEN_CARD] / counts[COMPROMISED_TERMINAL])


def test_a_burst_tries_many_cards_at_one_terminal_within_an_hour() -> None:
    options = SimulatorOptions(customers=1_000, terminals=500, days=6, burst_days=(4,))
    days = list(simulate(options))
    burst = days[4].take(np.flatnonzero(scenarios(days[4]) == CARD_TESTING))

    assert [day for day in range(6) if (scenarios(days[day]) == CARD_TESTING).any()] == [4]
    assert len(set(burst.keys[0])) == len(burst) == BURST_CARDS
    assert len(set(burst.keys[1])) == 1
    assert np.ptp(burst.event_time_ms) <= HOUR_SECONDS * 1_000
    assert burst.amount_minor.max() <= BURST_AMOUNT_MINOR_MAX
    assert (burst.amount_minor == 0).any()
    assert (burst.is_fraud == 1).all()


def test_random_bursts_come_about_as_often_as_asked() -> None:
    options = SimulatorOptions(customers=400, terminals=50, days=60, bursts_a_day=0.5)
    count = sum((scenarios(day) == CARD_TESTING).sum() for day in simulate(options)) / BURST_CARDS

    assert count == pytest.approx(30, abs=15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"customers": 0},
        {"terminals": POPULATION_MAX + 1},
        {"days": -1},
        {"first_day": 9_999},
        {"seed": -1},
        {"radius": 0.0},
    ],
)
def test_an_impossible_world_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        SimulatorOptions(**wrong)  # type: ignore[arg-type]


def test_fraud_can_be_made_rarer_and_nothing_else_changes() -> None:
    usual, rare, none = (
        joined(list(simulate(replace(SMALL, days=60, fraud_scale=scale)))) for scale in (1, 0.2, 0)
    )

    assert usual.transaction_id == rare.transaction_id == none.transaction_id
    assert usual.keys == rare.keys == none.keys
    assert set(np.unique(scenarios(none)).tolist()) == {GENUINE, LARGE_AMOUNT}
    compromised = [
        int((scenarios(batch) > LARGE_AMOUNT).sum()) for batch in (usual, rare, none)
    ]  # fmt: skip
    assert compromised[0] > 2 * compromised[1] > compromised[2] == 0
    large = scenarios(usual) == LARGE_AMOUNT
    assert (scenarios(none)[large] == LARGE_AMOUNT).all()
