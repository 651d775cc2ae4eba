"""A file of past transactions as steps of event time, each with the labels known before it.

The same file gives the same steps and the same numbers, however often it is read, so that a run
which was killed goes on where it was. Labels come from a column, after a constant delay or at the
time of another column, or from a file of their own. A row that does not fit is set aside with its
number and the reason; so is a label that cannot be used, whose transaction stays.

>>> import tempfile
>>> from pipeline.schema import load_schema
>>> path = Path(tempfile.mkdtemp()) / "past.csv"
>>> _ = path.write_text(
...     "transaction_id,event_time,card_id,terminal_id,amount,is_fraud\\n"
...     "t1,2026-11-01T12:00:00Z,c1,m1,9.50,0\\n"
...     "t2,2026-11-01T12:10:00Z,c1,m1,nine,1\\n"
...     "t3,2026-11-01T13:30:00Z,c1,m1,1.00,1\\n"
... )
>>> history = History(path, load_schema("card"), HistoryOptions(delay_ms=600_000), partitions=1)
>>> [(step.events, sum(map(len, step.labels.values()))) for step in history.steps()]
[(1, 0), (1, 1), (0, 0)]
>>> history.accepted, history.waiting, [reject.row for reject in history.rejects]
(2, 1, [2])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.durations import HOUR_MS
from pipeline.errors import DataError, SettingError
from pipeline.events import Label
from pipeline.feedback_encoding import encode_label
from pipeline.history import ByPartition, HistoryRecord, HistoryStep
from pipeline.label_words import Source
from pipeline.partitioner import partition_of
from pipeline.schema import Schema
from producers.batch import LABEL_UNKNOWN, EventBatch
from producers.columns import CATEGORY_NONE
from producers.datasets import read_events
from producers.encoding import TransactionEncoder, label_id_of
from producers.label_file import FileLabel, read_labels, times_of
from producers.tokens import Tokeniser

KEYS_REMEMBERED_MAX = 131_072
# Beyond so many bad rows the file is not one of this schema, or the schema is wrong.
REJECTS_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryOptions:
    """How a file is read.

    Parameters
    ----------
    labels
        Whether there are any; if not, nothing but silence teaches.
    delay_ms
        Event time from a transaction to its label, where nothing else says when it came.
    label_time
        The column that says when each label came; where it is empty the delay is taken.
    labels_file
        Labels in a file of their own, with columns of the same names; then the file of the
        transactions needs no column of labels.
    source
        Who spoke: it ranks a label against later ones (`pipeline/verdicts.py`).
    to_end
        After the last transaction, give the labels as well that would come later than it.
    step_ms
        Event time between two moments at which labels are learned and adopted.
    sort
        Read the whole file and put it in time order, instead of refusing disorder.
    rejects_max
        Beyond so many bad rows, reading ends with an error.
    """

    labels: bool = True
    delay_ms: int
    label_time: str | None = None
    labels_file: Path | None = None
    source: Source = "chargeback"
    to_end: bool = False
    step_ms: int = HOUR_MS
    sort: bool = False
    rejects_max: int = REJECTS_MAX

    def __post_init__(self) -> None:
        if self.step_ms < 1 or self.delay_ms < 0:
            raise SettingError(
                f"the step ({self.step_ms} ms) must be above 0, and the delay of labels "
                f"({self.delay_ms} ms) not negative"
            )


@dataclass(frozen=True, slots=True)
class Reject:
    """What was set aside: a row of a file, or its label alone."""

    file: str
    row: int | None
    what: str
    problem: str


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A label that is not due yet."""

    time_ms: int
    place: int
    key: str
    transaction_id: str
    label_id: str
    is_fraud: bool


class History:
    """One file of the past; `steps` may be asked for once.

    Attributes
    ----------
    accepted
        Transactions given so far.
    labels
        Labels given so far.
    rejects
        What was set aside so far.
    moved
        Labels said to have come before their transaction, and given after it.
    waiting
        Labels that are not due at the end of the file, and were not given.
    first_ms, last_ms
        Event times of the first and the last transaction given.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        options: HistoryOptions,
        *,
        partitions: int,
        chunk_events: int = 1_024,
        tokeniser: Tokeniser | None = None,
    ) -> None:
        self._tokeniser = tokeniser
        self._path, self._schema, self._options = path, schema, options
        self._chunk_events = chunk_events
        self._encoder = TransactionEncoder(schema)
        self._place = lru_cache(maxsize=KEYS_REMEMBERED_MAX)(
            lambda key: partition_of(key.encode(), partitions)
        )
        self._due: dict[int, list[_Waiting]] = {}
        self._numbers = [0] * partitions
        self._beside: dict[str, list[FileLabel]] = {}
        self._rows: list[NDArray[np.int64]] = []
        self.rejects: list[Reject] = []
        self.accepted, self.labels, self.moved, self.waiting = 0, 0, 0, 0
        self.first_ms: int | None = None
        self.last_ms = 0

    def steps(self) -> Iterator[HistoryStep]:
        """Give the steps in the order of time; the last one has labels alone."""
        if self._options.labels_file is not None:
            self._beside = read_labels(
                self._options.labels_file, self._schema, self._options.label_time, self._reject
            )
        tick = 0
        parts: list[EventBatch] = []
        for batch in self._batches():
            ticks = batch.event_time_ms // self._options.step_ms
            edges = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(batch)]
            for start, stop in zip(edges, edges[1:], strict=False):
                if parts and ticks[start] != tick:
                    yield self._step(tick, parts)
                    parts = []
                tick = int(ticks[start])
                parts.append(batch.slice(start, stop))
        if parts:
            yield self._step(tick, parts)
        yield self._last_step()
        self._count_unknown()

    def row_of(self, place: int) -> int:
        """Give the row of the file that a transaction's number stands for."""
        for rows in self._rows:
            if place < len(rows):
                return int(rows[place])
            place -= len(rows)
        raise IndexError(place)

    def _batches(self) -> Iterator[EventBatch]:
        options = self._options
        labels = options.labels and options.labels_file is None
        column = options.label_time if labels else None
        return read_events(
            self._path,
            self._schema,
            labels=labels,
            sort=options.sort,
            segments=[column] if column else [],
            tokeniser=self._tokeniser,
            refused=partial(self._reject, self._path, "row"),
        )

    def _reject(self, path: Path, what: str, row: int, problem: str) -> None:
        self.rejects.append(Reject(path.name, row, what, problem))
        if len(self.rejects) > self._options.rejects_max:
            raise DataError(
                f"{path.name}: more than {self._options.rejects_max:,} rows do not fit, so the "
                f"file or the schema is wrong; the last one: {problem}"
            )

    def _step(self, tick: int, parts: Sequence[EventBatch]) -> HistoryStep:
        labels, newest = self._known([due for due in self._due if due < tick])
        first = self.accepted
        chunks = []
        for part in parts:
            for start in range(0, len(part), self._chunk_events):
                chunks.append(self._chunk(part.slice(start, start + self._chunk_events)))
        start_ms = tick * self._options.step_ms
        return HistoryStep(start_ms, labels, chunks, first, self.accepted, self.last_ms, newest)

    def _chunk(self, part: EventBatch) -> ByPartition:
        """Give events by their partition, and let their labels wait."""
        keys = part.keys[0]
        found: ByPartition = {}
        values = self._encoder.encode(part)
        for place, (key, value) in enumerate(zip(keys, values, strict=True), self.accepted):
            found.setdefault(self._place(key), []).append(HistoryRecord(place, key.encode(), value))
        assert part.row is not None, "it was read from a file"
        self._rows.append(part.row)
        self._wait(part)
        self.accepted += len(part)
        if self.first_ms is None:
            self.first_ms = int(part.event_time_ms[0])
        self.last_ms = int(part.event_time_ms[-1])
        return dict(sorted(found.items()))

    def _wait(self, part: EventBatch) -> None:
        if self._options.labels_file is None:
            self._wait_column(part)
            return
        for row, transaction_id in enumerate(part.transaction_id):
            for number, label in enumerate(self._beside.get(transaction_id, ())):
                label.is_used = True
                time_ms = label.time_ms
                if time_ms is None:
                    time_ms = int(part.event_time_ms[row]) + self._options.delay_ms
                self._add(part, row, label.is_fraud, time_ms, number)

    def _wait_column(self, part: EventBatch) -> None:
        known = part.is_fraud != LABEL_UNKNOWN
        times = part.event_time_ms + self._options.delay_ms
        if self._options.label_time is not None:
            times, is_bad = _said_times(part.segments[0], times)
            for row in np.flatnonzero(is_bad & known).tolist():
                assert part.row is not None, "it was read from a file"
                problem = f"column {self._options.label_time!r}: expected a time, got another text"
                self._reject(self._path, "label", int(part.row[row]), problem)
            known &= ~is_bad
        for row in np.flatnonzero(known).tolist():
            self._add(part, row, bool(part.is_fraud[row]), int(times[row]), 0)

    def _add(self, part: EventBatch, row: int, is_fraud: bool, time_ms: int, number: int) -> None:
        """Let a label wait; none is known before its transaction."""
        event_ms = int(part.event_time_ms[row])
        self.moved += time_ms < event_ms
        time_ms = max(time_ms, event_ms)
        transaction_id = part.transaction_id[row]
        # A further label of the same transaction is one of its own.
        label_id = label_id_of(transaction_id, f"l{number}-" if number else "l-")
        self._due.setdefault(time_ms // self._options.step_ms, []).append(
            _Waiting(
                time_ms, self.accepted + row, part.keys[0][row], transaction_id, label_id, is_fraud
            )
        )

    def _known(self, due: Sequence[int]) -> tuple[ByPartition, int]:
        """Take the labels of these ticks, in the order of time, and the newest event of them."""
        found: ByPartition = {}
        newest = -1
        for tick in sorted(due):
            waiting = self._due.pop(tick)
            for item in sorted(waiting, key=lambda item: (item.time_ms, item.place)):
                p = self._place(item.key)
                found.setdefault(p, []).append(self._record(p, item))
                newest = max(newest, item.place)
        return dict(sorted(found.items())), newest

    def _record(self, partition: int, item: _Waiting) -> HistoryRecord:
        label = Label(
            label_id=item.label_id,
            transaction_id=item.transaction_id,
            key=item.key,
            is_fraud=item.is_fraud,
            source=self._options.source,
            label_time_ms=item.time_ms,
        )
        number = self._numbers[partition]
        self._numbers[partition] += 1
        self.labels += 1
        return HistoryRecord(number, item.key.encode(), encode_label(label, self._schema))

    def _last_step(self) -> HistoryStep:
        """Give what is known at the end of the file, or all that ever will be."""
        if not self._options.to_end:
            for tick, waiting in self._due.items():
                known = [item for item in waiting if item.time_ms <= self.last_ms]
                self.waiting += len(waiting) - len(known)
                self._due[tick] = known
        labels, newest = self._known(list(self._due))
        return HistoryStep(self.last_ms, labels, [], self.accepted, self.accepted, newest=newest)

    def _count_unknown(self) -> None:
        for found in self._beside.values():
            for label in found:
                if not label.is_used:
                    assert self._options.labels_file is not None
                    problem = "the file of transactions has none of this id"
                    self._reject(self._options.labels_file, "label", label.row, problem)


def _said_times(
    texts: Sequence[str], default: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Read times as they are said, the default where nothing is; and which cannot be read."""
    said = pd.Series(texts, dtype=str)
    is_empty = (said == CATEGORY_NONE).to_numpy(dtype=np.bool_)
    times, is_bad = times_of(said)
    return np.where(is_empty, default, times), is_bad & ~is_empty
