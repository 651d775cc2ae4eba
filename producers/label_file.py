"""Labels of past transactions in a file of their own: id, verdict, and perhaps when each came.

The columns have the names that the schema gives them; the partition key is not needed, since the
transactions stand in their own file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.events import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN
from pipeline.schema import Schema
from producers import columns
from producers.batch import LABEL_UNKNOWN
from producers.columns import Column
from producers.datasets import column_names, fitting, frames

Reject = Callable[[Path, str, int, str], None]
"""Takes a file, what is set aside, the number of its row, and why."""


@dataclass(slots=True)
class FileLabel:
    """One label, with its row; without a time it comes after the common delay."""

    row: int
    is_fraud: bool
    time_ms: int | None
    is_used: bool = False


def read_labels(
    path: Path, schema: Schema, time_column: str | None, reject: Reject
) -> dict[str, list[FileLabel]]:
    """Give a file's labels by transaction, in the order of the file; a row that says nothing is
    passed over.
    """
    assert schema.label is not None, "it was checked with the settings"
    names = [schema.event_id, schema.label, *([time_column] if time_column else [])]
    present = column_names(path)
    for name in names:
        if name not in present:
            raise DataError(
                f"{path.name}: column {name!r} is missing: the file has {', '.join(present)}"
            )

    def make(frame: pd.DataFrame, first_row: int) -> list[tuple[str, FileLabel]]:
        def column(name: str) -> Column:
            return Column(path.name, name, first_row, frame[name])

        ids, verdicts = columns.ids(column(schema.event_id)), columns.labels(column(names[1]))
        times: list[int | None] = [None] * len(ids)
        if time_column:
            said, is_bad = times_of(frame[time_column].astype(str))
            is_empty = frame[time_column].isna().to_numpy()
            column(time_column).check(is_bad & ~is_empty, "a time")
            pairs = zip(said.tolist(), is_empty.tolist(), strict=True)
            times = [None if empty else time for time, empty in pairs]
        return [
            (ids[place], FileLabel(first_row + place, bool(verdict), times[place]))
            for place, verdict in enumerate(verdicts.tolist())
            if verdict != LABEL_UNKNOWN
        ]

    found: dict[str, list[FileLabel]] = {}
    first_row = 1
    for frame in frames(path, names):
        for part in fitting(frame, first_row, make, partial(reject, path, "label")):
            for transaction_id, label in part:
                found.setdefault(transaction_id, []).append(label)
        first_row += len(frame)
    return found


def times_of(said: "pd.Series[str]") -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read RFC 3339 texts, dates, or milliseconds since 1970; gives which cannot be read, too.

    >>> times, is_bad = times_of(pd.Series(["2026-11-01", "1793534400000", "soon"]))
    >>> times.tolist()[:2], is_bad.tolist()
    ([1793491200000, 1793534400000], [False, False, True])
    """
    moments = pd.to_datetime(said, format="ISO8601", utc=True, errors="coerce")
    times = moments.dt.tz_localize(None).to_numpy(dtype="datetime64[ms]").astype(np.int64)
    is_number = said.str.fullmatch(r"[0-9]{12,14}").to_numpy(dtype=np.bool_)
    if is_number.any():
        times[is_number] = said[is_number].astype(np.int64)
    return times, (times < EVENT_TIME_MS_MIN) | (times > EVENT_TIME_MS_MAX)
