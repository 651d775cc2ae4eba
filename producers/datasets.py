"""CSV and Parquet files, read by a schema into batches of events.

A file is read in chunks, so that its size does not matter. Whatever does not fit the schema stops
the reading with one line that names file, row, column, what was expected and what came: a file is
mended once, whereas on the stream each such row would become a dead letter. Rows are counted from
1, without the header. Values of ids are never shown, since a card number may be among them.

Times may be datetimes (without an offset: UTC), RFC 3339 text, or whole milliseconds since 1970.
Amounts become integer minor units exactly, or not at all. Pickled files are refused by name:
loading one runs whatever it says.

>>> import tempfile
>>> from pipeline.schema import load_schema
>>> path = Path(tempfile.mkdtemp()) / "day.csv"
>>> _ = path.write_text(
...     "transaction_id,event_time,card_id,terminal_id,amount,is_fraud\\n"
...     "t1,2026-11-01T12:00:00Z,c1,m1,9.50,0\\n"
... )
>>> batch = next(read_events(path, load_schema("card")))
>>> batch.event_time_ms.tolist(), batch.amount_minor.tolist(), batch.is_fraud.tolist()
([1793534400000], [950], [0])
>>> next(read_events(Path("cards.pkl"), load_schema("card")))
Traceback (most recent call last):
pipeline.errors.DataError: cards.pkl: pickled files are never loaded, since ... Parquet or CSV
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.events import EVENT_TIME_MS_MIN, no_numbers
from pipeline.incumbent import Incumbent, IncumbentReader
from pipeline.schema import Entity, Schema
from pipeline.texts import Coded, Vocabulary
from producers import columns
from producers.batch import LABEL_UNKNOWN, EventBatch, joined
from producers.columns import Column
from producers.tokens import Tokeniser

T = TypeVar("T")

CHUNK_ROWS = 65_536
CSV, PARQUET = ".csv", ".parquet"
PICKLES = (".pkl", ".pickle")
SCENARIO_COLUMNS = ("scenario", "TX_FRAUD_SCENARIO")
# Of the vocabularies of a file, that of its currencies; no column has an empty name.
CURRENCY = ""

Refused = Callable[[int, str], None]
"""Takes the number of a row, from 1 without the header, and what is wrong with it."""


def read_events(
    path: Path,
    schema: Schema,
    *,
    labels: bool = True,
    sort: bool = False,
    segments: Sequence[str] = (),
    tokeniser: Tokeniser | None = None,
    refused: Refused | None = None,
) -> Iterator[EventBatch]:
    """Give a file's events in time order, in batches.

    Parameters
    ----------
    labels
        Whether the schema's label column must be there; without it every label is unknown.
    sort
        Read the whole file into memory and put it in time order, instead of refusing disorder.
    segments
        Columns whose values stand beside the events, and are never part of one.
    tokeniser
        Replaces the card numbers of a schema that has some; without one they are refused.
    refused
        Called with the number of a row that does not fit and what is wrong with it; the others are
        read on. Without it the first such row ends the reading.
    """
    wanted = _Wanted.of(path, schema, labels=labels, segments=segments, tokeniser=tokeniser)
    batches = _batches(path, wanted, refused)
    if sort:
        yield from _sorted(list(batches))
    else:
        yield from _in_order(batches, wanted)


def count_rows(path: Path) -> int | None:
    """Say how many rows a file has, if it can be known without reading it."""
    if path.suffix != PARQUET:
        return None
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def column_names(path: Path) -> list[str]:
    """Name the columns of a file."""
    if path.suffix in PICKLES:
        raise DataError(
            f"{path.name}: pickled files are never loaded, since loading one runs whatever it "
            "says: save it as Parquet or CSV"
        )
    if path.suffix not in (CSV, PARQUET):
        raise DataError(f"{path.name}: a file must end in {CSV} or {PARQUET}")
    if not path.is_file():
        raise DataError(f"{path} does not exist, or is no file")
    if path.suffix == PARQUET:
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    return [str(name) for name in _translated(path, lambda: pd.read_csv(path, nrows=0)).columns]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which columns of which file are read, by the words of a schema.

    `vocabularies` are those of columns whose values come again, by the column's name.
    """

    file: str
    schema: Schema
    currency: str | None
    label: str | None
    scenario: str | None
    segments: tuple[str, ...]
    incumbent: tuple[str, ...]
    response: str | None
    tokeniser: Tokeniser | None
    vocabularies: defaultdict[str, Vocabulary] = field(
        default_factory=lambda: defaultdict(Vocabulary)
    )

    @classmethod
    def of(
        cls,
        path: Path,
        schema: Schema,
        *,
        labels: bool,
        segments: Sequence[str],
        tokeniser: Tokeniser | None,
    ) -> "_Wanted":
        present = column_names(path)
        # A stream may leave out the currency where the schema has a default, and so may a file.
        optional = schema.currency_default and schema.currency not in present
        label = schema.label if labels else None
        free = [name for name in SCENARIO_COLUMNS if name not in schema.event_fields]
        wanted = cls(
            file=path.name,
            schema=schema,
            currency=None if optional else schema.currency,
            label=label,
            scenario=next((name for name in free if name in present), None),
            segments=tuple(segments),
            incumbent=tuple(name for name in schema.incumbent_fields if name in present),
            response=schema.response if schema.response in present else None,
            tokeniser=tokeniser,
        )
        missing = [name for name in wanted.columns if name not in present]
        if missing:
            hint = f"; without labels say so (--no-labels), since {label!r} is one"
            raise DataError(
                f"{path.name}: column {missing[0]!r} of schema {schema.name!r} is missing: "
                f"the file has {', '.join(present)}{hint if missing == [label] else ''}"
            )
        return wanted

    @property
    def columns(self) -> list[str]:
        fields = [name for name in self.schema.event_fields if name != self.schema.currency]
        extra = (self.currency, self.label, self.scenario, self.response)
        named = [*fields, *(name for name in extra if name is not None)]
        named += [*self.segments, *self.incumbent]
        return list(dict.fromkeys(named))


def _translated(path: Path, read: Callable[[], Any]) -> Any:
    """Do one step of reading; what the libraries find wrong with the file becomes a DataError."""
    try:
        return read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: expected text in UTF-8, got other bytes") from error
    except (OSError, pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path.name}: {str(error).strip().splitlines()[0]}") from error


def _parquet(path: Path) -> Any:
    return _translated(path, lambda: pq.ParquetFile(path))


def frames(path: Path, names: list[str]) -> Iterator[pd.DataFrame]:
    """Give the columns in chunks; a CSV file's as text, so that no digit is lost or invented."""
    if path.suffix == PARQUET:
        with _parquet(path) as file:
            parts = file.iter_batches(batch_size=CHUNK_ROWS, columns=names)
            # Whole numbers with a gap would become floats, and ids of 16 digits other ones.
            for part in _each(path, parts):
                yield part.to_pandas(integer_object_nulls=True)
        # Arrow would keep the memory for a next file.
        pa.default_memory_pool().release_unused()
    else:
        with _translated(path, lambda: _csv(path, names)) as parts:
            yield from _each(path, parts)


def _csv(path: Path, names: list[str]) -> Any:
    return pd.read_csv(
        path,
        usecols=names,
        dtype=str,
        chunksize=CHUNK_ROWS,
        keep_default_na=False,
        na_values=[""],
    )


def _each(path: Path, parts: Iterator[Any]) -> Iterator[Any]:
    while (part := _translated(path, lambda: next(parts, None))) is not None:
        yield part


def _batches(path: Path, wanted: _Wanted, refused: Refused | None) -> Iterator[EventBatch]:
    first_row = 1
    for frame in frames(path, wanted.columns):
        if len(frame):
            make = partial(_batch, wanted)
            yield from fitting(frame, first_row, make, refused)
        first_row += len(frame)


def fitting(
    frame: pd.DataFrame,
    first_row: int,
    make: Callable[[pd.DataFrame, int], T],
    refused: Refused | None,
) -> Iterator[T]:
    """Make something of the rows that fit; a row that does not is found by halves."""
    try:
        yield make(frame, first_row)
        return
    except DataError as error:
        if refused is None:
            raise
        if len(frame) == 1:
            refused(first_row, str(error))
            return
    half = len(frame) // 2
    for start, part in ((0, frame.iloc[:half]), (half, frame.iloc[half:])):
        yield from fitting(part, first_row + start, make, refused)


def _batch(wanted: _Wanted, frame: pd.DataFrame, first_row: int) -> EventBatch:
    schema, words = wanted.schema, wanted.vocabularies

    def column(name: str) -> Column:
        return Column(wanted.file, name, first_row, frame[name])

    def categories(name: str) -> Coded:
        return columns.categories(column(name), words[name])

    times = columns.times(column(schema.event_time))

    def ids(entity: Entity) -> Sequence[str]:
        name = entity.field
        if name == schema.event_id:
            return columns.ids(column(name))
        if entity.tokenise and wanted.tokeniser is not None:
            tokens = columns.tokens(column(name), times, wanted.tokeniser)
            return words[name].coded(tokens)
        return columns.repeated_ids(column(name), words[name])

    return EventBatch(
        transaction_id=columns.ids(column(schema.event_id)),
        event_time_ms=times,
        keys=tuple(ids(entity) for entity in schema.entities),
        amount_minor=(
            columns.amounts(column(schema.amount), schema.minor_digits)
            if schema.amount
            else np.zeros(len(frame), dtype=np.int64)
        ),
        currency=(
            columns.currencies(column(wanted.currency), schema.currency_default, words[CURRENCY])
            if wanted.currency
            else words[CURRENCY].coded([schema.currency_default] * len(frame))
        ),
        categories=tuple(categories(category.field) for category in schema.categories),
        numbers=np.column_stack(
            [
                no_numbers(len(frame)),
                *(columns.numbers(column(number.field)) for number in schema.numbers),
            ]
        ),
        is_fraud=(
            columns.labels(column(wanted.label))
            if wanted.label
            else np.full(len(frame), LABEL_UNKNOWN, dtype=np.int8)
        ),
        scenario=columns.scenarios(column(wanted.scenario)) if wanted.scenario else None,
        segments=tuple(categories(name) for name in wanted.segments),
        incumbents=_incumbents(wanted, column),
        row=np.arange(first_row, first_row + len(frame)),
        declined=(
            columns.declined(column(wanted.response), schema.declined) if wanted.response else None
        ),
    )


def _incumbents(wanted: _Wanted, column: Callable[[str], Column]) -> list[Incumbent | None]:
    fields = wanted.schema.incumbent
    if fields is None:
        return []
    score, action = (
        column(name) if name in wanted.incumbent else None for name in (fields.score, fields.action)
    )
    return columns.incumbents(score, action, IncumbentReader(fields))


def _in_order(batches: Iterator[EventBatch], wanted: _Wanted) -> Iterator[EventBatch]:
    """Pass batches on as long as time does not go back, also from one to the next."""
    last = EVENT_TIME_MS_MIN
    for batch in batches:
        times = np.concatenate([[last], batch.event_time_ms])
        back = np.flatnonzero(np.diff(times) < 0)
        if len(back):
            place = int(back[0])
            assert batch.row is not None, "it was read from a file"
            raise DataError(
                f"{wanted.file}: row {batch.row[place]:,}, column {wanted.schema.event_time!r}: "
                f"{_moment(times[place + 1])} comes after {_moment(times[place])}: "
                "sort the file by time, or read it whole (sort)"
            )
        last = int(times[-1])
        yield batch


def _sorted(batches: list[EventBatch]) -> Iterator[EventBatch]:
    if not batches:
        return
    whole = joined(batches)
    order = np.argsort(whole.event_time_ms, kind="stable")
    for start in range(0, len(whole), CHUNK_ROWS):
        yield whole.take(order[start : start + CHUNK_ROWS])


def _moment(milliseconds: int) -> str:
    return f"{np.datetime64(int(milliseconds), 'ms')}Z"
