"""The streams that are compared on, as a schema and a few dates; there is no code for any of them.

>>> STREAMS["handbook"].judged_ms
(1526428800000, 1538352000000)
>>> sorted(STREAMS)
['drift', 'ecommerce', 'handbook', 'loop', 'phishing', 'tiny']
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
from river.datasets import Phishing

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.errors import DataError
from pipeline.schema import Schema, load_schema
from producers.batch import EventBatch
from producers.datasets import read_events
from producers.simulator import Drift, SimulatorOptions, expected_transactions, simulate

DATA_VARIABLE = "FRAUDSTREAM_DATA"

START = date(2018, 4, 1)
DRIFT_DAY = 90
# A small town for half a year: amounts, pattern and mix change on day 90. Card testers come on five
# days, none of them in the four weeks before or after, which recovery compares.
DRIFTING = SimulatorOptions(
    customers=2_000,
    terminals=4_000,
    days=180,
    start=START,
    drift=Drift(day=DRIFT_DAY),
    burst_days=(50, 55, 125, 140, 155),
)
# Rare fraud, as a bank sees it: 0.2 % of the events.
LOOP = SimulatorOptions(fraud_scale=0.3, start=START)
TINY = SimulatorOptions(customers=60, terminals=100, days=40, start=START, fraud_scale=10.0)


@dataclass(frozen=True, slots=True)
class Stream:
    """Events and how they are judged.

    Parameters
    ----------
    events
        Gives the events in batches, in time order.
    total
        About how many there are.
    judged_ms
        Quality is measured on events from the first moment to before the second.
    delay_days
        The label delay of the protocol.
    """

    name: str
    schema_name: str
    events: Callable[[], Iterator[EventBatch]]
    total: int
    judged_ms: tuple[int, int]
    delay_days: float = 7.0

    @property
    def schema(self) -> Schema:
        """What the fields mean."""
        return load_schema(self.schema_name)


def day_ms(start: date, day: float) -> int:
    """Give the moment at which so many days of a stream are over."""
    midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
    return int(midnight.timestamp() * 1000 + day * DAY_MS)


def data_file(name: str) -> Path:
    """Give the path of a data file, in the folder that FRAUDSTREAM_DATA names."""
    folder = os.environ.get(DATA_VARIABLE)
    path = Path(folder or "") / name
    if folder is None or not path.is_file():
        raise DataError(f"{DATA_VARIABLE} names no folder with {name}")
    return path


def _of_file(name: str, schema_name: str) -> Iterator[EventBatch]:
    return read_events(data_file(name), load_schema(schema_name))


def _phishing() -> Iterator[EventBatch]:
    """Write River's bundled data as a file of events, an hour apart, and read it back."""
    start_ms = day_ms(START, 0)
    rows = [
        {"site_id": f"s{row}", "event_time": start_ms + row * HOUR_MS, **numbers, "is_phishing": y}
        for row, (numbers, y) in enumerate(Phishing())
    ]
    path = cache_folder() / "phishing.parquet"
    pd.DataFrame(rows).to_parquet(path, index=False)
    return read_events(path, load_schema("phishing"))


def cache_folder() -> Path:
    """Give the folder for what can be made again: features and scores, some gigabytes."""
    folder = Path(os.environ.get("FRAUDSTREAM_BENCH_CACHE", "var/quality"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _stream(name: str, schema_name: str, options: SimulatorOptions, first_day: int) -> Stream:
    return Stream(
        name=name,
        schema_name=schema_name,
        events=lambda: simulate(options),
        total=expected_transactions(options),
        judged_ms=(day_ms(options.start, first_day), day_ms(options.start, options.days)),
    )


STREAMS = {
    stream.name: stream
    for stream in (
        Stream(
            name="handbook",
            schema_name="handbook",
            events=lambda: _of_file("handbook.parquet", "handbook"),
            total=1_754_155,
            judged_ms=(day_ms(START, 45), day_ms(START, 183)),
        ),
        Stream(
            name="ecommerce",
            schema_name="ecommerce",
            events=lambda: _of_file("ecommerce.parquet", "ecommerce"),
            total=100_000,
            # The last 40 % of the rows begin in this hour.
            judged_ms=(day_ms(date(2009, 3, 1), 18 / 24), day_ms(date(2009, 4, 10), 0)),
        ),
        Stream(
            name="phishing",
            schema_name="phishing",
            events=_phishing,
            total=1_250,
            judged_ms=(day_ms(START, 14), day_ms(START, 60)),
        ),
        _stream("drift", "card", DRIFTING, first_day=45),
        # Chargebacks come after up to 90 days; before that nobody has learned much.
        _stream("loop", "card", LOOP, first_day=90),
        _stream("tiny", "card", TINY, first_day=14),
    )
}
