"""Time: an event's own, against what can be and against its arrival in Kafka."""

from dataclasses import dataclass

from pipeline.durations import DAY_MS
from pipeline.errors import Reason
from pipeline.events import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN
from tests.armour.cases import Case, right, wrong
from tests.strategies import MONDAY_MS

_UNITS = tuple(
    wrong("event_time", number, said=f"expected milliseconds since 1970, got what would be {unit}")
    for number, unit in (
        (MONDAY_MS // 1_000, "seconds"),
        (MONDAY_MS * 1_000, "microseconds"),
        (MONDAY_MS * 1_000_000, "nanoseconds"),
    )
)
_YEARS = tuple(
    wrong("event_time", value, said="a time of the years 2000 to 2100")
    for value in (
        0, 1, -MONDAY_MS, EVENT_TIME_MS_MIN - 1, EVENT_TIME_MS_MAX + 1, 10**30,
        "1999-12-31T23:59:59Z", "2101-01-01T00:00:00Z",
    )
)  # fmt: skip
_FORMS = tuple(
    wrong("event_time", value)
    for value in (
        None, True, [MONDAY_MS], {"at": MONDAY_MS}, 10**4000, "",
        1_609_718_400_000.0, 1_609_718_400_000.5, "1609718400000",
        "2021-01-04T00:00:00", "2021-01-04", "2021-02-30T00:00:00Z", "2021-02-29T00:00:00Z",
        "2021-01-04T24:00:00Z", "2021-01-04T23:59:60Z", "2021-01-04T00:00Z",
        "2021-01-04T00:00:00+25:00", "04.01.2021 00:00:00",
        "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    )
)  # fmt: skip
_RIGHT = tuple(
    right("event_time", value, event_time_ms=[milliseconds])
    for value, milliseconds in (
        (MONDAY_MS, MONDAY_MS),
        (EVENT_TIME_MS_MIN, EVENT_TIME_MS_MIN),
        (EVENT_TIME_MS_MAX, EVENT_TIME_MS_MAX),
        ("2021-01-04T00:00:00Z", MONDAY_MS),
        ("2021-01-04T00:00:00+00:00", MONDAY_MS),
        ("2021-01-04T01:00:00+01:00", MONDAY_MS),
        ("2021-01-03T18:30:00-05:30", MONDAY_MS),
        ("2021-01-04T00:00:00.001Z", MONDAY_MS + 1),
        ("2021-01-04T00:00:00.000999Z", MONDAY_MS),
        ("2000-01-01T00:00:00Z", EVENT_TIME_MS_MIN),
        ("1999-12-31T23:00:00-01:00", EVENT_TIME_MS_MIN),
        ("2100-01-01T00:00:00Z", EVENT_TIME_MS_MAX),
        # The hour that a clock in Berlin shows twice is told apart by its offset.
        ("2020-10-25T02:30:00+02:00", 1_603_585_800_000),
        ("2020-10-25T02:30:00+01:00", 1_603_589_400_000),
        ("2020-02-29T12:00:00Z", 1_582_977_600_000),
    )
)
TIMES: tuple[Case, ...] = (*_UNITS, *_YEARS, *_FORMS, *_RIGHT)


@dataclass(frozen=True)
class Arrival:
    """An event so far ahead of its arrival in Kafka, limits of 300 s and 30 days."""

    name: str
    ahead_ms: int
    reason: Reason | None = None
    said: str = ""
    age_days_max: float = 30.0


ARRIVALS = (
    Arrival("at its arrival", 0),
    Arrival("a clock that is five minutes ahead", 300_000),
    Arrival("a clock that is further ahead", 300_001, "out_of_time", "at most 300 s after"),
    Arrival("tomorrow", DAY_MS, "out_of_time", "got 86400 s after it"),
    Arrival("an hour late", -3_600_000),
    Arrival("thirty days late", -30 * DAY_MS),
    Arrival("later than that", -30 * DAY_MS - 1, "out_of_time", "at most 30 days before"),
    Arrival("years late", -1_000 * DAY_MS, "out_of_time", "got 1000.0 days before it"),
    Arrival("years late, without a limit", -1_000 * DAY_MS, age_days_max=0.0),
    Arrival("tomorrow, without a limit of age", DAY_MS, "out_of_time", age_days_max=0.0),
)
