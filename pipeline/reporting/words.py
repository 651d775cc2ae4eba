"""How a report writes numbers, times and tables; the terminal and the page say the same.

>>> number(1234567), number(0.25), number(None)
('1,234,567', '0.2500', '-')
>>> stretch_text(4 * DAY_MS, 11 * DAY_MS), stretch_text(4 * DAY_MS, 5 * DAY_MS)
('1970-01-05 to 1970-01-11', '1970-01-05')
>>> span_text(90 * 60_000), span_text(7 * DAY_MS)
('1.5 hours', '7.0 days')
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.evaluation import Quality
from pipeline.quality.intervals import Interval

MINUTE_MS = 60_000
STRETCH_NAMES = {DAY_MS: "day", 7 * DAY_MS: "week", 28 * DAY_MS: "four weeks"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text; the first cell of a row names it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quality_table(
    quality: Mapping[str, Quality], intervals: Mapping[str, Mapping[str, Interval]] | None = None
) -> Table:
    """Give what was measured: a row for each number, a column for each model.

    A number that has an interval is followed by it.
    """
    found = {name: asdict(of_model) for name, of_model in quality.items()}
    known = intervals or {}
    names = list(next(iter(found.values()), {}))
    rows = [
        (
            name.replace("_", " "),
            *(
                number(of_model[name]) + _interval_text(known.get(model, {}).get(name))
                for model, of_model in found.items()
            ),
        )
        for name in names
    ]
    return Table(("measured on labelled events", *quality), tuple(rows))


def _interval_text(found: Interval | None) -> str:
    return "" if found is None else f" ({found.low:.4f}-{found.high:.4f})"


def number(value: float | None) -> str:
    """Write a count whole and anything else with four decimals; what is not defined is a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def small(value: float | None) -> str:
    """Write a number that may be tiny, with three digits that count."""
    return "-" if value is None else f"{value:#.3g}"


def percent(share: float) -> str:
    """Write a share with three digits that count.

    >>> percent(0.00837), percent(0.5), percent(1.0)
    ('0.837 %', '50 %', '100 %')
    """
    return f"{100 * share:.3g} %"


def share_text(part: int, whole: int) -> str:
    """Write a part of a whole as a share; of nothing there is none."""
    return percent(part / whole) if whole else "-"


def day_text(moment_ms: int) -> str:
    """Write a day, UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d")


def moment_text(moment_ms: int) -> str:
    """Write a moment to the minute, UTC."""
    return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def period_text(first_ms: int | None, last_ms: int | None) -> str:
    """Write the period of a run and its length."""
    if first_ms is None or last_ms is None:
        return "none"
    days = (last_ms - first_ms) / DAY_MS
    return f"{moment_text(first_ms)} to {moment_text(last_ms)} ({days:,.1f} days)"


def stretch_text(start_ms: int, end_ms: int) -> str:
    """Write a stretch of whole days by its first and last day."""
    last = day_text(end_ms - DAY_MS)
    return last if end_ms - start_ms <= DAY_MS else f"{day_text(start_ms)} to {last}"


def span_text(milliseconds: float) -> str:
    """Write a span of time in the unit that people would take."""
    for size, unit in ((DAY_MS, "days"), (HOUR_MS, "hours"), (MINUTE_MS, "minutes")):
        if milliseconds >= size:
            return f"{milliseconds / size:,.1f} {unit}"
    return f"{milliseconds / 1000:,.1f} seconds"


def short_span(milliseconds: int) -> str:
    """Write the edge of a bin: hours below a day, else days."""
    if milliseconds < DAY_MS:
        return f"{milliseconds // HOUR_MS} h"
    return f"{milliseconds // DAY_MS} d"
