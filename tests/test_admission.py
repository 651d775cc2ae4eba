"""Which transactions are admitted: those of their own partition, at a time that can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


KEYS = [f"c{number}" for number in range(40)]
OUR_KEYS = [key for key in KEYS if partition_of(key.encode(), 4) == OURS]
ORDINARY = st.tuples(st.sampled_from(OUR_KEYS), st.just(0), st.just("own"))
ODD = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from([300_000, 300_001, -30 * DAY_MS, -30 * DAY_MS - 1, None]),
    st.sampled_from(["own", "none", "other", "bytes"]),
)


@given(st.lists(st.lists(st.one_of(ORDINARY, ORDINARY, ORDINARY, ODD), max_size=12)), st.booleans())
def test_a_batch_is_admitted_as_its_events_are_one_by_one(
    batches: list[list[tuple[str, int | None, str]]], is_decoded_whole: bool
) -> None:
    admission = Admission(CARD, SETTINGS, OURS)
    for records in batches:
        batch = visits([MONDAY_MS] * len(records), cards=[key for key, _, _ in records])
        forms = {"none": None, "other": b"x", "bytes": b"\xff"}
        keys = [forms.get(form, key.encode()) for key, _, form in records]
        times = [None if ahead is None else MONDAY_MS - ahead for _, ahead, _ in records]
        rows = list(range(len(records)))
        if not is_decoded_whole:
            # Behind a record that was refused.
            keys, times, rows = [b"y", *keys], [0, *times], [row + 1 for row in rows]

        kept, kept_rows, rejected = admission.admit(batch, rows, times, keys)
        # Of nothing that was admitted before.
        expected = Admission(CARD, SETTINGS, OURS).admit_each(batch, rows, times, keys)

        assert (kept.transaction_id, kept_rows, rejected) == (
            expected[0].transaction_id, *expected[1:],
        )  # fmt: skip
