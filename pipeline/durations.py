"""Spans of time as people write them, in milliseconds.

Delays and intervals are typed in days, hours, minutes, seconds or milliseconds; the unit is
always written, so that a number can never be taken for another one. Only zero needs none.

>>> parse_duration("7d"), parse_duration("1.5s"), parse_duration("0")
(604800000, 1500, 0)
>>> format_duration(5_400_000)
'90m'
>>> parse_duration("7")
Traceback (most recent call last):
pipeline.errors.SettingError: a duration is a number and one of d, h, m, s, ms, ... (got '7')
"""

import re
from decimal import Decimal

from pipeline.errors import SettingError

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MILLISECONDS = {"d": DAY_MS, "h": HOUR_MS, "m": 60_000, "s": 1_000, "ms": 1}
# Ten years; a longer delay is a slip of the unit, and its sums could leave 64 bits.
DURATION_MS_MAX = 3_650 * MILLISECONDS["d"]

_FORM = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?(d|h|m|s|ms)", re.ASCII)


def parse_duration(text: str) -> int:
    """Read a duration such as `7d`, `90m`, `1.5s` or `0` as whole milliseconds."""
    if text.strip() == "0":
        return 0
    found = _FORM.fullmatch(text.strip())
    if found is None:
        units = ", ".join(MILLISECONDS)
        raise SettingError(
            f"a duration is a number and one of {units}, such as 7d or 90m, or 0 (got {text!r})"
        )
    return _within_bounds(Decimal(found[1]) * MILLISECONDS[found[2]], text)


def _within_bounds(milliseconds: Decimal, text: str) -> int:
    whole = int(milliseconds)
    if whole != milliseconds:
        raise SettingError(f"a duration is a whole number of milliseconds (got {text!r})")
    if whole > DURATION_MS_MAX:
        raise SettingError(
            f"a duration is at most {format_duration(DURATION_MS_MAX)} (got {text!r})"
        )
    return whole


def format_duration(milliseconds: int) -> str:
    """Write milliseconds in the largest unit that needs no fraction; `parse_duration` reads it."""
    if milliseconds == 0:
        return "0"
    unit = next(unit for unit, size in MILLISECONDS.items() if milliseconds % size == 0)
    return f"{milliseconds // MILLISECONDS[unit]}{unit}"
