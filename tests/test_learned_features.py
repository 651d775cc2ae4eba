"""What labels teach features: risks, runs of frauds, habits, and corrections that take it back."""

import math

import numpy as np
import pytest

from pipeline.durations import DAY_MS
from pipeline.feature_kernels import record_verdicts
from tests.feature_memory import Memory, float32, learn_some
from tests.strategies import MONDAY_MS, traffic, visits


def test_a_fraud_raises_the_risk_that_then_halves() -> None:
    memory = Memory()
    memory.learn([MONDAY_MS], [1])

    now, later = (memory.read_at(MONDAY_MS + days * DAY_MS) for days in (0, 7))

    assert now["card_risk_7d"] == now["terminal_risk_120d"] == float32(1.01 / 2)
    assert later["card_risk_7d"] == float32(0.51 / 1.5)
    assert now["card_frauds"] == float32(1.01)
    assert later["card_frauds"] == float32(0.5 ** (7 / 30) + 0.01)


def test_a_genuine_label_lowers_the_risk() -> None:
    memory = Memory()
    memory.learn([MONDAY_MS] * 3, [0, 0, 0])

    row = memory.read_at(MONDAY_MS)

    assert row["card_risk_30d"] == float32(0.01 / 4)
    assert (row["card_verdict"], row["card_fraud_run"]) == (0.0, 0.0)
    assert math.isnan(row["card_days_since_fraud"])
    assert row["card_days_since_genuine"] == 0.0


def test_labels_of_one_age_count_alike_in_any_order() -> None:
    first, second = Memory(), Memory()
    times = [MONDAY_MS, MONDAY_MS + 9 * DAY_MS, MONDAY_MS + 4 * DAY_MS]
    first.learn(times, [1, 0, 1])
    second.learn([times[1], times[2], times[0]], [0, 1, 1])

    ours, theirs = (memory.read_at(MONDAY_MS + 10 * DAY_MS) for memory in (first, second))

    for name in ("card_risk_7d", "card_risk_30d", "card_risk_120d", "card_frauds"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)


def test_frauds_in_a_row_are_a_run_that_a_genuine_label_ends() -> None:
    memory = Memory()
    memory.learn([MONDAY_MS + day * DAY_MS for day in range(3)], [1, 1, 1])
    running = memory.read_at(MONDAY_MS + 5 * DAY_MS)

    memory.learn([MONDAY_MS + 3 * DAY_MS], [0])
    ended = memory.read_at(MONDAY_MS + 5 * DAY_MS)

    assert (running["card_fraud_run"], running["card_days_since_run"]) == (3.0, 5.0)
    assert (running["card_verdict"], running["card_days_since_fraud"]) == (1.0, 3.0)
    assert (ended["card_fraud_run"], ended["card_verdict"]) == (0.0, 0.0)
    assert math.isnan(ended["card_days_since_run"])
    assert (ended["card_genuine_since_fraud"], ended["card_days_since_genuine"]) == (1.0, 2.0)


def test_a_verdict_on_an_older_event_does_not_change_the_run() -> None:
    memory = Memory()
    memory.learn([MONDAY_MS + DAY_MS, MONDAY_MS], [1, 0])

    row = memory.read_at(MONDAY_MS + DAY_MS)

    assert (row["card_verdict"], row["card_fraud_run"]) == (1.0, 1.0)
    assert row["card_genuine_since_fraud"] == 0.0


@pytest.mark.parametrize(("first", "second"), [(1, 0), (0, 1)])
def test_a_correction_takes_its_counts_back(first: int, second: int) -> None:
    corrected, straight = Memory(), Memory()
    corrected.learn([MONDAY_MS, MONDAY_MS], [first, second], corrects=[False, True])
    straight.learn([MONDAY_MS], [second])

    row, expected = (memory.read_at(MONDAY_MS) for memory in (corrected, straight))

    for name in ("risk_7d", "risk_30d", "risk_120d", "frauds", "verdict", "fraud_run"):
        assert row[f"card_{name}"] == expected[f"card_{name}"]
    np.testing.assert_equal(row["card_genuine_ratio"], expected["card_genuine_ratio"])


def test_a_correction_after_other_labels_takes_back_what_is_left() -> None:
    corrected, straight = Memory(), Memory()
    later = MONDAY_MS + 20 * DAY_MS
    corrected.learn([MONDAY_MS, later, MONDAY_MS], [1, 0, 0], corrects=[False, False, True])
    straight.learn([MONDAY_MS, later], [0, 0])

    row, expected = (memory.read_at(later) for memory in (corrected, straight))

    for name in ("card_risk_7d", "card_risk_30d", "card_risk_120d", "card_frauds"):
        assert row[name] == pytest.approx(expected[name], abs=1e-6)
    assert row["card_genuine_ratio"] == pytest.approx(expected["card_genuine_ratio"], abs=1e-6)


def test_only_genuine_amounts_make_the_genuine_habit() -> None:
    memory = Memory()
    memory.learn([MONDAY_MS] * 5, [0, 1, 0, 1, 0], amounts=[1000, 90_000, 1000, 70_000, 1000])

    row = memory.read_at(MONDAY_MS, amount=1510)

    assert row["card_genuine_z"] == float32(510 / 51)
    assert row["card_genuine_ratio"] == float32(math.log1p(1510) - math.log1p(1000))


def test_labels_of_usual_and_of_unusual_amounts_are_remembered_apart() -> None:
    memory = Memory()
    memory.read(visits([MONDAY_MS] * 9))
    memory.learn([MONDAY_MS, MONDAY_MS + DAY_MS], [1, 1], unusual=[1, 1])
    memory.learn([MONDAY_MS + 2 * DAY_MS], [0], unusual=[0])
    later = MONDAY_MS + 3 * DAY_MS

    usual, unusual = memory.read_at(later), memory.read_at(later, amount=90_000)

    assert unusual["card_amount_z"] > 3.0 > usual["card_amount_z"]
    assert (unusual["terminal_alike_run"], usual["terminal_alike_run"]) == (2.0, 0.0)
    assert unusual["terminal_alike_days_since_run"] == 3.0
    assert unusual["terminal_alike_days_since_fraud"] == 2.0
    assert math.isnan(unusual["terminal_alike_days_since_genuine"])
    assert usual["terminal_alike_days_since_genuine"] == 1.0
    assert math.isnan(usual["terminal_alike_days_since_fraud"])
    assert unusual["terminal_alike_risk"] > 0.5
    assert usual["terminal_alike_risk"] < 0.01
    # All labels together: the latest verdict ended the run.
    assert usual["terminal_fraud_run"] == unusual["terminal_fraud_run"] == 0.0


def test_labels_change_no_feature_of_traffic() -> None:
    memory, other = Memory(), Memory()
    memory.learn([MONDAY_MS] * 3, [1, 0, 1])
    batch = traffic(4, 100, cards=2, terminals=2)

    ours, theirs = memory.read(batch), other.read(batch)

    for name in ("card_count_1d", "card_amount_z", "terminal_count_7d", "terminal_amount_ratio_1d"):
        np.testing.assert_array_equal([row[name] for row in ours], [row[name] for row in theirs])


def test_reading_what_labels_teach_changes_nothing() -> None:
    memory = Memory()
    learn_some(memory, 1, record_verdicts)
    before = [table.rows.tobytes() for table in memory.learned.tables]

    memory.read(traffic(4, 100, cards=5, terminals=5))

    assert [table.rows.tobytes() for table in memory.learned.tables] == before
