"""The breaker opens and closes by event time alone, whatever the batches are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.breaker import MINUTE_MS, Breaker
from pipeline.errors import SettingError
from pipeline.settings import Settings
from tests.strategies import MONDAY_MS

BY_SHARE = Settings(breaker_decline_share_max=0.5, breaker_window_minutes=10, breaker_events_min=4)
BY_MONEY = Settings(
    breaker_decline_share_max=0.0, breaker_amount_minor_max=1_000, breaker_window_minutes=10,
    breaker_events_min=1,
)  # fmt: skip


def taken(
    breaker: Breaker, minutes: list[int], declines: list[int], amounts: list[int] | None = None,
    free: list[int] | None = None,
) -> list[int]:  # fmt: skip
    """Give the places of the declines that became reviews."""
    count = len(minutes)
    reviewed = breaker.reviews(
        np.array(minutes, np.int64) * MINUTE_MS + MONDAY_MS,
        np.array(amounts or [100] * count, np.int64),
        np.array(declines, np.bool_),
        np.array(free or [1] * count, np.bool_),
    )
    return np.flatnonzero(reviewed).tolist()


def test_it_opens_at_the_event_that_takes_the_share_beyond_its_bound() -> None:
    breaker = Breaker(BY_SHARE)

    assert taken(breaker, [0] * 4, [0, 0, 1, 1]) == []
    assert not breaker.is_open
    assert taken(breaker, [0] * 3, [1, 0, 1]) == [0, 2]
    assert breaker.is_open


def test_few_events_open_nothing() -> None:
    assert taken(Breaker(BY_SHARE), [0, 1, 2], [1, 1, 1]) == []


def test_what_left_the_window_is_not_counted() -> None:
    declines_pass = Breaker(BY_SHARE)
    taken(declines_pass, [0, 0, 0], [1, 1, 1])

    assert taken(declines_pass, [10, 10, 10, 10], [0, 0, 1, 1]) == []
    assert taken(Breaker(BY_SHARE), [0, 0, 0, 9], [1, 1, 1, 1]) == [3]


def test_it_stays_open_until_the_window_is_back_under_half_the_bound() -> None:
    breaker = Breaker(BY_SHARE)
    taken(breaker, [0] * 4, [1] * 4)

    # Four of nine are fewer than the bound, and still reviewed.
    assert taken(breaker, [1] * 6, [0, 0, 0, 0, 0, 1]) == [5]
    assert breaker.is_open
    # Five declines of twenty are a quarter: half of the bound.
    assert taken(breaker, [2] * 11, [0] * 10 + [1]) == []
    assert not breaker.is_open


def test_an_empty_window_closes_nothing() -> None:
    breaker = Breaker(BY_SHARE)
    taken(breaker, [0] * 4, [1] * 4)

    assert taken(breaker, [500, 500], [0, 1]) == [1]
    assert breaker.is_open


def test_money_opens_it_at_once_and_closes_it_by_half() -> None:
    breaker = Breaker(BY_MONEY)

    assert taken(breaker, [0, 1, 2], [1, 0, 1], [1_000, 9_000, 1]) == [2]
    # The thousand is gone with its minute; what is left is under half.
    assert taken(breaker, [10, 10], [0, 1], [5, 400]) == []
    assert not breaker.is_open


def test_what_a_list_decided_is_neither_counted_nor_changed() -> None:
    breaker = Breaker(BY_SHARE)

    assert taken(breaker, [0] * 8, [1] * 8, free=[0] * 8) == []
    assert not breaker.is_open
    taken(breaker, [0] * 4, [1] * 4)
    assert taken(breaker, [0] * 2, [1] * 2, free=[0, 1]) == [1]


def test_without_bounds_there_is_none() -> None:
    off = Breaker(replace(BY_SHARE, breaker_decline_share_max=0.0))

    assert (off.is_on, taken(off, [0] * 9, [1] * 9)) == (False, [])


EVENTS = st.lists(
    st.tuples(st.integers(0, 40), st.booleans(), st.integers(0, 900), st.booleans()),
    min_size=1, max_size=60,
)  # fmt: skip


@given(events=EVENTS, cuts=st.lists(st.integers(0, 60)), restarts=st.booleans())
def test_neither_batches_nor_restarts_change_a_bit(
    events: list[tuple[int, bool, int, bool]], cuts: list[int], restarts: bool
) -> None:
    settings = replace(BY_SHARE, breaker_amount_minor_max=2_500)
    whole, parts = Breaker(settings), Breaker(settings)
    columns = [list(column) for column in zip(*events, strict=True)]
    expected = taken(whole, *columns)  # type: ignore[arg-type]

    found = []
    edges = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    for start, stop in zip(edges, edges[1:], strict=False):
        if restarts:
            kept, parts = parts.state(), Breaker(settings)
            parts.load(kept)
        columns_now = [column[start:stop] for column in columns]
        found += [start + place for place in taken(parts, *columns_now)]  # type: ignore[arg-type]

    assert found == expected
    assert parts.state() == whole.state()


@given(events=EVENTS)
def test_it_counts_as_a_window_that_is_counted_anew_at_each_event(
    events: list[tuple[int, bool, int, bool]],
) -> None:
    settings = replace(BY_SHARE, breaker_amount_minor_max=2_500)
    columns = [list(column) for column in zip(*events, strict=True)]
    is_open, expected, seen, newest = False, [], [], -1
    for place, (minute, declines, amount, counts) in enumerate(events):
        if not counts:
            continue
        newest = max(newest, minute)
        seen.append((minute, declines, amount))
        window = [item for item in seen if item[0] > newest - 10]
        share = sum(item[1] for item in window) / len(window) if window else 0.0
        money = sum(item[2] for item in window if item[1])
        if is_open:
            is_open = not (len(window) >= 4 and share <= 0.25 and money <= 1_250)
        else:
            is_open = (len(window) >= 4 and share > 0.5) or money > 2_500
        if is_open and declines:
            expected.append(place)

    assert taken(Breaker(settings), *columns) == expected  # type: ignore[arg-type]


def test_state_of_other_bounds_is_begun_anew() -> None:
    before, after = Breaker(BY_SHARE), Breaker(replace(BY_SHARE, breaker_window_minutes=20))
    taken(before, [0] * 4, [1] * 4)
    after.load(before.state())

    assert not after.is_open
    assert after.state() == Breaker(replace(BY_SHARE, breaker_window_minutes=20)).state()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("breaker_decline_share_max", 1.5),
        ("breaker_amount_minor_max", -1),
        ("breaker_window_minutes", 0),
        ("breaker_window_minutes", 361),
        ("breaker_events_min", 0),
        ("mode", "stop"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float | str) -> None:
    with pytest.raises(SettingError, match=name):
        replace(Settings(), **{name: value})  # type: ignore[arg-type]
