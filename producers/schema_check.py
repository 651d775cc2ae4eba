"""Does a file fit a schema? Every column is decoded as `replay` would, but nothing stops at once.

Values of ids are never shown, and in what is shown card numbers are masked. Rows are counted from
1, without the header; in a CSV file whose values hold no line breaks, a row is one line further.

>>> import tempfile
>>> from pipeline.schema import load_schema
>>> path = Path(tempfile.mkdtemp()) / "day.csv"
>>> _ = path.write_text(
...     "transaction_id,event_time,card_id,terminal_id,amount\\n"
...     "t1,2026-11-01T12:00:00Z,c1,m1,9.50\\nt2,2026-11-01T12:00:01Z,c1,m1,-1\\n"
... )
>>> found = check_file(path, load_schema("card"), labels=False)
>>> [(part.column, part.fits, part.bad) for part in found.parts if not part.fits]
[('amount', False, 1)]
>>> found.parts[4].first[0].row, found.parts[4].first[0].got
(2, "'-1'")
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.card_numbers import mask_card_numbers
from pipeline.errors import DataError
from pipeline.incumbent import IncumbentReader
from pipeline.schema import Schema
from producers import columns
from producers.columns import Column, ColumnError
from producers.datasets import CSV, column_names, frames

FIRST_BAD = 3
SEPARATORS = (";", "\t", "|")

Decode = Callable[[Column], Any]
Show = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not fit; `line` is its line in a CSV file."""

    row: int
    line: int | None
    expected: str
    got: str


@dataclass(slots=True)
class Part:
    """One column that a schema names, and how it fits."""

    column: str
    role: str
    decode: Decode
    is_optional: bool = False
    type: str = ""
    is_missing: bool = False
    rows: int = 0
    empty: int = 0
    bad: int = 0
    first: list[BadRow] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether replay can read the column."""
        return not self.bad and (not self.is_missing or self.is_optional)

    @property
    def share(self) -> float:
        """The part of its values that decode."""
        return 0.0 if self.is_missing else 1 - self.bad / max(self.rows, 1)


@dataclass(frozen=True, slots=True)
class FileCheck:
    """How a file fits a schema.

    Parameters
    ----------
    repeated_ids
        Rows whose event id came before: decided once, so the file fits all the same.
    disorder
        Rows whose time is before that of the row above, which replay refuses.
    """

    file: str
    schema: str
    rows: int
    parts: list[Part]
    repeated_ids: int
    disorder: Part
    ignored: list[str]

    @property
    def fits(self) -> bool:
        """Whether replay can read the file."""
        return self.rows > 0 and self.disorder.fits and all(part.fits for part in self.parts)


def parts_of(schema: Schema, *, labels: bool = True) -> list[Part]:
    """Give the columns that a schema names, each once, with what decodes it."""
    amounts = partial(columns.amounts, digits=schema.minor_digits)
    currencies = partial(columns.currencies, default=schema.currency_default)
    entities = schema.entities[1:] if schema.is_keyed_by_id else schema.entities
    parts = [
        Part(schema.event_id, "event id", columns.ids),
        Part(schema.event_time, "time", columns.times),
    ]
    parts += [Part(item.field, f"entity {item.name}", columns.ids) for item in entities]
    if schema.amount:
        parts.append(Part(schema.amount, "amount", amounts))
    if schema.currency:
        optional = bool(schema.currency_default)
        parts.append(Part(schema.currency, "currency", currencies, is_optional=optional))
    parts += [
        Part(item.field, f"category {item.name}", columns.categories) for item in schema.categories
    ]
    parts += [Part(item.field, f"number {item.name}", columns.numbers) for item in schema.numbers]
    if (said := schema.incumbent) is not None:
        read = partial(columns.incumbents, reader=IncumbentReader(said))
        if said.score:
            parts.append(Part(said.score, "incumbent score", lambda c: read(c, None), True))
        if said.action:
            parts.append(Part(said.action, "incumbent action", lambda c: read(None, c), True))
    if schema.response:
        read_answer = partial(columns.declined, codes=schema.declined)
        parts.append(Part(schema.response, "response", read_answer, is_optional=True))
    if schema.label and labels:
        parts.append(Part(schema.label, "label", columns.labels))
    return parts


def check_file(
    path: Path, schema: Schema, *, labels: bool = True, show: Show = lambda count, text: None
) -> FileCheck:
    """Decode every column of a file that the schema names, and say what does not fit.

    `show` is called with the count of rows after each chunk.
    """
    parts = parts_of(schema, labels=labels)
    present = known_columns(path)
    for part in parts:
        part.is_missing = part.column not in present
    fields = list(dict.fromkeys(part.column for part in parts if not part.is_missing))
    checking = Checking(path, parts)
    for frame in frames(path, fields or present[:1]):
        checking.add(frame)
        show(checking.rows, f"{checking.rows:,} rows")
    known = {part.column for part in parts}
    return checking.done(schema, [name for name in present if name not in known])


def known_columns(path: Path) -> list[str]:
    """Name the columns of a file, or say that they are not separated by commas."""
    names = column_names(path)
    if any(mask_card_numbers(name.encode()) != name.encode() for name in names):
        raise DataError(
            f"{path.name}: a column's name holds a card number (not shown): does the file lack a "
            "header? Replace card numbers by tokens as well"
        )
    found = [mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]]
    if found and path.suffix == CSV:
        raise DataError(
            f"{path.name}: the columns seem to be separated by {found[0]!r}: a CSV file must have "
            "commas, so save it anew with them, or as Parquet"
        )
    return names


class Checking:
    """A check as it goes on, a chunk after the other."""

    def __init__(self, path: Path, parts: list[Part]) -> None:
        self._path, self._parts = path, parts
        self._has_lines = path.suffix == CSV
        self._hashes: list[NDArray[np.uint64]] = []
        self._last_ms: int | None = None
        self._disorder = Part(parts[1].column, "time order", columns.times)
        self.rows = 0

    def add(self, frame: pd.DataFrame) -> None:
        """Decode one chunk."""
        for part in self._parts:
            if part.is_missing:
                continue
            values = frame[part.column]
            part.type = part.type or ("text" if self._has_lines else str(values.dtype))
            part.rows += len(values)
            part.empty += int(values.isna().sum())
            good, decoded = self._judge(part, values)
            if part.role == "time" and decoded is not None:
                self._look_at_order(good, decoded)
            if part.role == "event id" and decoded is not None:
                self._hashes.append(pd.util.hash_array(np.array(decoded, dtype=object)))
        self.rows += len(frame)

    def done(self, schema: Schema, ignored: list[str]) -> FileCheck:
        """Give what was found."""
        hashes = np.concatenate(self._hashes) if self._hashes else np.empty(0, np.uint64)
        repeated = len(hashes) - len(np.unique(hashes))
        return FileCheck(
            self._path.name, schema.name, self.rows, self._parts, repeated, self._disorder, ignored
        )

    def _judge(self, part: Part, values: "pd.Series[Any]") -> tuple[NDArray[np.int64], Any]:
        """Take the rows away that do not fit until the rest decodes; gives the rest."""
        places = np.arange(len(values))
        while len(places):
            rest = values.iloc[places]
            try:
                return places, part.decode(Column(self._path.name, part.column, 1, rest))
            except ColumnError as error:
                for place in places[error.wrong][: FIRST_BAD - len(part.first)]:
                    part.first.append(self._bad_row(part, values, int(place), error))
                part.bad += int(error.wrong.sum())
                places = places[~error.wrong]
        return places, None

    def _bad_row(
        self, part: Part, values: "pd.Series[Any]", place: int, error: ColumnError
    ) -> BadRow:
        one: ColumnError = error
        try:
            part.decode(Column(self._path.name, part.column, 1, values.iloc[[place]]))
        except ColumnError as found:
            one = found
        return self._row(place, one.expected, one.got)

    def _row(self, place: int, expected: str, got: str) -> BadRow:
        row = self.rows + place + 1
        masked = mask_card_numbers(got.encode("utf-8", "replace")).decode("utf-8", "replace")
        return BadRow(row, row + 1 if self._has_lines else None, expected, masked)

    def _look_at_order(self, good: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        before = np.concatenate([[times[0] if self._last_ms is None else self._last_ms], times])
        back = np.flatnonzero(np.diff(before) < 0)
        for place in back[: FIRST_BAD - len(self._disorder.first)]:
            expected = f"a time not before {_moment(before[place])} of the row above"
            self._disorder.first.append(
                self._row(int(good[place]), expected, _moment(times[place]))
            )
        self._disorder.bad += len(back)
        self._disorder.rows += len(times)
        self._last_ms = int(times[-1])


def _moment(milliseconds: int) -> str:
    return f"{np.datetime64(int(milliseconds), 'ms')}Z"


def sample(path: Path, rows: int, show: Show) -> tuple[pd.DataFrame, bool]:
    """Give the first rows of a file, all of its columns, and whether that is the whole file.

    `rows` is 0 for all of them.
    """
    parts: list[pd.DataFrame] = []
    count = 0
    for frame in _each(path):
        parts.append(frame)
        count += len(frame)
        show(min(count, rows) if rows else count, f"{count:,} rows")
        if rows and count > rows:
            break
    if not count:
        raise DataError(f"{path.name}: there are no rows, so nothing can be said about them")
    whole = pd.concat(parts, ignore_index=True)
    return (whole.iloc[:rows], False) if rows and count > rows else (whole, True)


def _each(path: Path) -> Iterator[pd.DataFrame]:
    return frames(path, known_columns(path))
