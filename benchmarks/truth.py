"""What a file says of the events that a benchmark published, and which of them are judged."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.topics import Ids, Ints
from pipeline.durations import DAY_MS
from producers.batch import EventBatch

# A model must have seen some weeks before its scores are judged; a short run judges its last third.
JUDGED_FROM_DAY = 45


@dataclass(frozen=True, slots=True)
class Truth:
    """What the file says of the events that were published; `card` is coded as integers."""

    transaction_id: Ids
    event_time_ms: Ints
    card: Ints
    is_fraud: NDArray[np.bool_]

    @property
    def judged_from_ms(self) -> int:
        """The moment from which on scores are judged."""
        first = int(self.event_time_ms[0])
        days = (int(self.event_time_ms[-1]) - first) / DAY_MS
        return first + int(min(JUDGED_FROM_DAY, days * 2 / 3) * DAY_MS)


def first_days(batches: Iterator[EventBatch], days: int) -> Iterator[EventBatch]:
    """Pass on the events of so many days from the first one's midnight on, then end."""
    end_ms: int | None = None
    for batch in batches:
        if end_ms is None:
            end_ms = (int(batch.event_time_ms[0]) // DAY_MS + days) * DAY_MS
        count = int(np.searchsorted(batch.event_time_ms, end_ms))
        if count:
            yield batch.slice(0, count)
        if count < len(batch):
            return


def truth_of(batches: Iterator[EventBatch]) -> Truth:
    """Read what is true of the events."""
    cards: dict[str, int] = {}
    columns = [
        (
            np.array(batch.transaction_id, dtype=np.bytes_),
            batch.event_time_ms,
            np.array([cards.setdefault(key, len(cards)) for key in batch.keys[0]]),
            batch.is_fraud == 1,
        )
        for batch in batches
    ]
    return Truth(*(np.concatenate(column) for column in zip(*columns, strict=True)))
