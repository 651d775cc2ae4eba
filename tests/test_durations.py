"""Durations are read exactly, and what is not one is refused with what is valid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.durations import DURATION_MS_MAX, format_duration, parse_duration
from pipeline.errors import SettingError


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("250ms", 250),
        ("30s", 30_000),
        ("1.5 h", 5_400_000),
        ("90m", 5_400_000),
        (" 7d ", 604_800_000),
        ("0.001s", 1),
    ],
)
def test_a_duration_is_whole_milliseconds(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-1d", "7w", "1e3s", "7d 3h", "٣d", "1.5.5s", "+3s"]
)
def test_what_is_no_duration_is_refused_with_the_valid_units(text: str) -> None:
    with pytest.raises(SettingError, match="one of d, h, m, s, ms"):
        parse_duration(text)


def test_a_part_of_a_millisecond_is_refused() -> None:
    with pytest.raises(SettingError, match="whole number of milliseconds"):
        parse_duration("0.5ms")


def test_the_longest_duration_is_accepted_and_a_longer_one_refused() -> None:
    assert parse_duration("3650d") == DURATION_MS_MAX
    with pytest.raises(SettingError, match="at most 3650d"):
        parse_duration("3651d")


@given(st.integers(0, DURATION_MS_MAX))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds
