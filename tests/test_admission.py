"""Which transactions are admitted: those of their own partition, at a time that can be."""

import pytest

from pipeline.admission import Admission
from pipeline.durations import DAY_MS
from pipeline.partitioner import partition_of
from pipeline.settings import Settings
from tests.strategies import CARD, MONDAY_MS, visits

SETTINGS = Settings(partitions=4, event_ahead_seconds_max=300.0, event_age_days_max=30.0)
OURS = partition_of(b"c1", 4)


def test_what_is_admitted_keeps_its_order_and_its_rows() -> None:
    cards = ["c1", next(f"c{n}" for n in range(9) if partition_of(b"c%d" % n, 4) != OURS), "c1"]
    batch = visits([MONDAY_MS] * 3, cards=cards)

    kept, rows, rejected = Admission(CARD, SETTINGS, OURS).admit(
        batch, [1, 4, 6], [MONDAY_MS] * 7, [None] * 7
    )

    assert (kept.transaction_id, rows) == (["t0", "t2"], [1, 6])
    assert [(item.row, item.problem.reason) for item in rejected] == [(4, "wrong_partition")]


def test_a_batch_without_problems_is_given_back_as_it_is() -> None:
    batch = visits([MONDAY_MS] * 3)

    assert Admission(CARD, SETTINGS, OURS).admit(batch, [0, 1, 2], [None] * 3, [b"c1"] * 3) == (
        batch, [0, 1, 2], [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ahead_ms", "reason"),
    [
        (300_000, None),
        (300_001, "out_of_time"),
        (-30 * DAY_MS, None),
        (-30 * DAY_MS - 1, "out_of_time"),
    ],
)
def test_the_time_of_an_event_is_held_against_its_arrival(
    ahead_ms: int, reason: str | None
) -> None:
    problem = Admission(CARD, SETTINGS, OURS).problem(
        "c1", time_ms=MONDAY_MS + ahead_ms, appended_ms=MONDAY_MS
    )

    assert (problem and problem.reason) == reason
