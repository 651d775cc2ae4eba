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

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.events import (
    AMOUNT_MINOR_MAX,
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    is_card_number,
)
from pipeline.schema import Schema
from producers.batch import LABEL_UNKNOWN, EventBatch, joined

CHUNK_ROWS = 65_536
CSV, PARQUET = ".csv", ".parquet"
PICKLES = (".pkl", ".pickle")
SCENARIO_COLUMNS = ("scenario", "TX_FRAUD_SCENARIO")
CATEGORY_NONE = "none"
CATEGORY_LENGTH_MAX = 64

# Milliseconds since 1970 passed this in March 1973; seconds will not before the year 5138.
EPOCH_MS_PLAUSIBLE = 100_000_000_000
# A float that stands for a decimal amount is this near to a whole minor unit, or is none.
MINOR_TOLERANCE = 1e-6
# Up to here, a float's own error at the scale of minor units is far below the tolerance.
FLOAT_EXACT_MINOR_MAX = 100_000_000

VERDICTS = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_DIGITS = re.compile(r"-?[0-9]{1,18}")


def read_events(
    path: Path, schema: Schema, *, labels: bool = True, sort: bool = False
) -> Iterator[EventBatch]:
    """Give a file's events in time order, in batches.

    Parameters
    ----------
    labels
        Whether the schema's label column must be there; without it every label is unknown.
    sort
        Read the whole file into memory and put it in time order, instead of refusing disorder.
    """
    wanted = _Wanted.of(path, schema, labels=labels)
    batches = _batches(path, wanted)
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


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which columns of which file are read, by the words of a schema."""

    file: str
    schema: Schema
    currency: str | None
    label: str | None
    scenario: str | None

    @classmethod
    def of(cls, path: Path, schema: Schema, *, labels: bool) -> "_Wanted":
        present = _columns_of(path)
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
        extra = (self.currency, self.label, self.scenario)
        return [*fields, *(name for name in extra if name is not None)]


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a chunk, with what is needed to say where something is wrong."""

    file: str
    name: str
    first_row: int
    values: "pd.Series[Any]"

    def error(self, place: int, expected: str, got: str) -> DataError:
        row = self.first_row + place
        return DataError(
            f"{self.file}: row {row:,}, column {self.name!r}: expected {expected}, got {got}"
        )

    def check(self, wrong: NDArray[np.bool_], expected: str, *, show: bool = True) -> None:
        """Refuse the first row that is marked; `show` its value unless that may be a secret."""
        if wrong.any():
            place = int(np.argmax(wrong))
            missing = bool(self.values.isna().iloc[place])
            got = repr(str(self.values.iloc[place])[:40]) if show else "another text"
            raise self.error(place, expected, "nothing" if missing else got)


def _columns_of(path: Path) -> list[str]:
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


def _frames(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Give the columns in chunks; a CSV file's as text, so that no digit is lost or invented."""
    if path.suffix == PARQUET:
        with _parquet(path) as file:
            parts = file.iter_batches(batch_size=CHUNK_ROWS, columns=columns)
            # Whole numbers with a gap would become floats, and ids of 16 digits other ones.
            for part in _each(path, parts):
                yield part.to_pandas(integer_object_nulls=True)
    else:
        with _translated(path, lambda: _csv(path, columns)) as parts:
            yield from _each(path, parts)


def _csv(path: Path, columns: list[str]) -> Any:
    return pd.read_csv(
        path,
        usecols=columns,
        dtype=str,
        chunksize=CHUNK_ROWS,
        keep_default_na=False,
        na_values=[""],
    )


def _each(path: Path, parts: Iterator[Any]) -> Iterator[Any]:
    while (part := _translated(path, lambda: next(parts, None))) is not None:
        yield part


def _batches(path: Path, wanted: _Wanted) -> Iterator[EventBatch]:
    first_row = 1
    for frame in _frames(path, wanted.columns):
        if len(frame):
            yield _batch(frame, wanted, first_row)
        first_row += len(frame)


def _batch(frame: pd.DataFrame, wanted: _Wanted, first_row: int) -> EventBatch:
    schema = wanted.schema

    def column(name: str) -> _Column:
        return _Column(wanted.file, name, first_row, frame[name])

    return EventBatch(
        transaction_id=_ids(column(schema.event_id)),
        event_time_ms=_times(column(schema.event_time)),
        keys=tuple(_ids(column(entity.field)) for entity in schema.entities),
        amount_minor=_amounts(column(schema.amount), schema.minor_digits),
        currency=(
            _currencies(column(wanted.currency), schema.currency_default)
            if wanted.currency
            else [schema.currency_default] * len(frame)
        ),
        categories=tuple(_categories(column(category.field)) for category in schema.categories),
        is_fraud=(
            _labels(column(wanted.label))
            if wanted.label
            else np.full(len(frame), LABEL_UNKNOWN, dtype=np.int8)
        ),
        scenario=_scenarios(column(wanted.scenario)) if wanted.scenario else None,
    )


def _in_order(batches: Iterator[EventBatch], wanted: _Wanted) -> Iterator[EventBatch]:
    """Pass batches on as long as time does not go back, also from one to the next."""
    row, last = 1, EVENT_TIME_MS_MIN
    for batch in batches:
        times = np.concatenate([[last], batch.event_time_ms])
        back = np.flatnonzero(np.diff(times) < 0)
        if len(back):
            place = int(back[0])
            raise DataError(
                f"{wanted.file}: row {row + place:,}, column {wanted.schema.event_time!r}: "
                f"{_moment(times[place + 1])} comes after {_moment(times[place])}: "
                "sort the file by time, or read it whole (sort)"
            )
        row, last = row + len(batch), int(times[-1])
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


def _texts(values: "pd.Series[Any]") -> list[str]:
    """Give values as text; those that are missing become empty."""
    if pd.api.types.is_integer_dtype(values.dtype):
        return [str(value) for value in values.tolist()]
    missing = values.isna()
    if missing.any():
        values = values.astype(object).where(~missing, "")
    return [value if type(value) is str else str(value) for value in values.tolist()]


def _ids(column: _Column) -> list[str]:
    texts = _texts(column.values)
    matches = _ID.fullmatch
    wrong = np.fromiter((matches(text) is None for text in texts), np.bool_, len(texts))
    column.check(wrong, "an id of 1 to 64 letters, digits, - and _", show=False)
    for place, text in enumerate(texts):
        if is_card_number(text):
            raise column.error(place, "a token", "a card number")
    return texts


def _times(column: _Column) -> NDArray[np.int64]:
    column.check(column.values.isna().to_numpy(), "a time")
    if pd.api.types.is_datetime64_any_dtype(column.values.dtype):
        times = _milliseconds(column.values)
    elif pd.api.types.is_integer_dtype(column.values.dtype):
        times = _plausible(column, column.values.to_numpy(dtype=np.int64))
    else:
        times = _times_of_text(column)
    wrong = (times < EVENT_TIME_MS_MIN) | (times > EVENT_TIME_MS_MAX)
    column.check(wrong, "a time of the years 2000 to 2100")
    return times


def _milliseconds(moments: "pd.Series[Any]") -> NDArray[np.int64]:
    if isinstance(moments.dtype, pd.DatetimeTZDtype):
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return moments.to_numpy(dtype="datetime64[ms]").astype(np.int64)


def _times_of_text(column: _Column) -> NDArray[np.int64]:
    texts = column.values.astype(str)
    if _DIGITS.fullmatch(texts.iloc[0]):
        wrong = [_DIGITS.fullmatch(text) is None for text in texts]
        column.check(np.array(wrong), "whole milliseconds since 1970, as in the row before")
        return _plausible(column, np.asarray(texts.astype(np.int64), dtype=np.int64))
    moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    column.check(moments.isna().to_numpy(), "a time as RFC 3339, such as 2026-11-01T12:00:00Z")
    return _milliseconds(moments)


def _plausible(column: _Column, times: NDArray[np.int64]) -> NDArray[np.int64]:
    if (np.abs(times) < EPOCH_MS_PLAUSIBLE).all():
        raise column.error(
            0,
            "whole milliseconds since 1970",
            f"{times[0]} (all below 10^11: seconds? multiply them by 1000)",
        )
    return times


def _amounts(column: _Column, digits: int) -> NDArray[np.int64]:
    """Turn amounts into minor units: by floats where they cannot err, else digit by digit."""
    values = column.values
    scaled = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64) * 10.0**digits
    nearest = np.rint(scaled)
    # Half of the tolerance leaves the other half to the float's own error. A float of 32 bits is
    # too coarse: its shortest decimal is the number that was written.
    with np.errstate(invalid="ignore"):
        certain = np.abs(scaled - nearest) <= MINOR_TOLERANCE / 2
        certain &= (nearest >= 0) & (nearest <= FLOAT_EXACT_MINOR_MAX)
    certain &= ~np.signbit(scaled) | (scaled == 0)
    certain &= values.dtype != np.float32
    amounts = np.where(certain, nearest, 0).astype(np.int64)
    for place in np.flatnonzero(~certain):
        amounts[place] = _exact(column, int(place), digits)
    return amounts


def _exact(column: _Column, place: int, digits: int) -> int:
    limit = f"{Decimal(AMOUNT_MINOR_MAX).scaleb(-digits):,}"
    expected = f"an amount of 0 to {limit} with at most {digits} decimal places"
    text = str(column.values.iloc[place])
    try:
        scaled = Decimal(text).scaleb(digits)
    except InvalidOperation:
        scaled = Decimal("NaN")
    if scaled.is_finite() and 0 <= scaled <= AMOUNT_MINOR_MAX:
        whole = scaled.to_integral_value(ROUND_HALF_EVEN)
        if abs(scaled - whole) <= Decimal(str(MINOR_TOLERANCE)):
            return int(whole)
    missing = bool(column.values.isna().iloc[place])
    raise column.error(place, expected, "nothing" if missing else repr(text[:40]))


def _currencies(column: _Column, default: str) -> list[str]:
    texts = [text or default for text in _texts(column.values)]
    good = {text for text in set(texts) if _CURRENCY.fullmatch(text)}
    column.check(np.array([text not in good for text in texts]), "a currency code such as EUR")
    return texts


def _categories(column: _Column) -> list[str]:
    texts = [text or CATEGORY_NONE for text in _texts(column.values)]
    wrong = np.array([len(text) > CATEGORY_LENGTH_MAX for text in texts])
    column.check(wrong, f"a text of at most {CATEGORY_LENGTH_MAX} characters")
    return texts


def _labels(column: _Column) -> NDArray[np.int8]:
    texts = [text.lower() for text in _texts(column.values)]
    labels = {text: VERDICTS.get(text, LABEL_UNKNOWN) for text in set(texts)}
    wrong = np.array([bool(text) and text not in VERDICTS for text in texts])
    column.check(wrong, "a label of 0 or 1 (or false or true, or nothing)")
    return np.fromiter((labels[text] for text in texts), np.int8, len(texts))


def _scenarios(column: _Column) -> NDArray[np.int8]:
    numbers = pd.to_numeric(column.values, errors="coerce").to_numpy(dtype=np.float64)
    return np.where((numbers >= 0) & (numbers <= np.iinfo(np.int8).max), numbers, 0).astype(np.int8)
