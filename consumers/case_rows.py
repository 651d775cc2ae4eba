"""Rows of a chargeback file: each becomes a case, or is left for a person with its line and why.

Amounts are decimals throughout. A date without a time is the whole of that day in the mapping's
zone; what became known on a day was known by its end. Card numbers are refused: no cell is shown.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from consumers.case_mapping import Mapping, Stage
from consumers.reason_codes import Meaning, ReasonCodes
from pipeline.card_numbers import is_card_number, mask_card_numbers
from pipeline.errors import DataError
from pipeline.events import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, Problem, minor_units
from pipeline.schema import Schema

# A batch of a Parquet file.
ROWS_AT_ONCE = 10_000
# Numbers of as many digits as a card's pass Luhn's check one time in ten.
CARD_NUMBERS_SHARE_MAX = 0.5
# As cards print them: nothing else has these groups and passes the check.
_PRINTED = re.compile(
    r"(?<!\d)(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5})(?!\d)"
)
_AMOUNT = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,8})?")
DAY = timedelta(days=1)

Row = tuple[int, dict[str, str]]
"""A row's line (in Parquet: its number), and its cells as text by column."""


@dataclass(frozen=True, slots=True)
class Span:
    """A moment, or a day, in milliseconds since 1970; both ends belong to it."""

    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Case:
    """One row that says something of a transaction.

    Parameters
    ----------
    amount_minor
        In minor units of the schema; a text says why there is none.
    when
        When the transaction was; a text says why that is not known.
    label_ms
        When the row became known.
    """

    line: int
    reference: str
    token: str
    amount_minor: int | str
    currency: str
    when: Span | str
    stage: Stage
    meaning: Meaning
    reason: str
    case: str
    label_ms: int


@dataclass(frozen=True, slots=True)
class Left:
    """A row that a person must look at, and why; `candidates` are ids of transactions."""

    line: int
    kind: str
    why: str
    candidates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    """A row that says nothing of who paid."""

    line: int


def read_rows(path: Path, delimiter: str = ",") -> tuple[list[str], list[Row]]:
    """Read a CSV or Parquet file as text; gives the columns' names and the rows."""
    try:
        names, rows = _parquet(path) if path.suffix == ".parquet" else _csv(path, delimiter)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: expected text in UTF-8, got other bytes") from error
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path.name}: {str(error).splitlines()[0]}") from error
    if not names:
        raise DataError(f"{path.name} is empty")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path.name}: column {shown(twice[0])!r} is there twice")
    _refuse_card_numbers(path, names, rows)
    return names, rows


def _csv(path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        rows, line = [], reader.line_num + 1
        for cells in reader:
            if len(cells) not in (0, len(names)):
                raise DataError(
                    f"{path.name}: line {line}: expected {len(names)} columns, got {len(cells)} "
                    f"(is {delimiter!r} between them? say [options] delimiter)"
                )
            if any(cell.strip() for cell in cells):
                rows.append((line, dict(zip(names, map(str.strip, cells), strict=True))))
            line = reader.line_num + 1
    return names, rows


def _parquet(path: Path) -> tuple[list[str], list[Row]]:
    with pq.ParquetFile(path) as file:
        names = [str(name) for name in file.schema_arrow.names]
        rows: list[Row] = []
        for batch in file.iter_batches(ROWS_AT_ONCE):
            columns = [list(map(_text, column.to_pylist())) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                rows.append((len(rows) + 1, dict(zip(names, cells, strict=True))))
    return names, rows


def _text(value: Any) -> str:
    if value is None or value is pd.NaT:
        return ""
    # A float's shortest decimal is the number that was written.
    return value.isoformat() if hasattr(value, "isoformat") else str(value).strip()


def _refuse_card_numbers(path: Path, names: Sequence[str], rows: Sequence[Row]) -> None:
    hint = "not shown; replace card numbers by tokens (a keyed HMAC) before the file comes here"
    for name in names:
        cells = [(line, cells[name]) for line, cells in rows if cells[name]]
        if mask_card_numbers(name.encode()) != name.encode():
            raise DataError(f"{path.name}: a column's name is a card number: {hint}")
        printed = (line for line, cell in cells if _has_printed(cell))
        if line := next(printed, 0):
            raise DataError(f"{path.name}: line {line}, column {name!r}: a card number, {hint}")
        found = [line for line, cell in cells if is_card_number(cell)]
        if len(found) > CARD_NUMBERS_SHARE_MAX * len(cells):
            raise DataError(
                f"{path.name}: column {name!r} holds card numbers ({len(found):,} of "
                f"{len(cells):,} values, the first in line {found[0]}), {hint}"
            )


def _has_printed(cell: str) -> bool:
    return any(is_card_number(re.sub("[ -]", "", text)) for text in _PRINTED.findall(cell))


def shown(text: str) -> str:
    """Give a text of a file so that it may be shown: short, in one line, without card numbers."""
    masked = mask_card_numbers(text[:40].encode("utf-8", "replace")).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in masked)


class CaseReader:
    """Makes cases of rows, by a mapping."""

    def __init__(self, mapping: Mapping, schema: Schema, codes: ReasonCodes) -> None:
        self._mapping, self._schema = mapping, schema
        self._codes = codes.with_own(mapping.reasons)

    def cases(self, rows: Sequence[Row]) -> Iterator[Case | Left | Ignored]:
        """Give what each row is."""
        for line, cells in rows:
            yield self._case(line, cells)

    def _case(self, line: int, cells: dict[str, str]) -> Case | Left | Ignored:
        given = {key: cells[name] for key, name in self._mapping.columns.named.items()}
        if any(is_card_number(given.get(key, "")) for key in ("reference", "token")):
            why = "its reference or token is a card number: it must be a token"
            return Left(line, "card_number", why)
        stage = self._mapping.stage(given["status"]) if given.get("status") else "chargeback"
        if stage is None:
            why = f"status {shown(given['status'])!r} is not known: say it in [statuses]"
            return Left(line, "unknown_status", why)
        meaning = self._codes.meaning(given["reason"], given.get("scheme", ""))
        if stage == "dispute_won" and not given["reason"]:
            meaning = "fraud"
        if "ignore" in (stage, meaning):
            return Ignored(line)
        if meaning is None:
            why = f"reason code {shown(given['reason'])!r} is not known: say it in [reasons]"
            return Left(line, "unknown_reason", why)
        label = self._span(given["label_date"])
        if isinstance(label, str):
            return Left(line, "bad_label_date", f"label_date: {label}")
        return Case(
            line=line,
            reference=given.get("reference", ""),
            token=given.get("token", ""),
            amount_minor=self._amount(given.get("amount", "")),
            currency=given.get("currency", "").upper() or self._default_currency,
            when=self._span(given.get("date", "")),
            stage=stage,
            meaning=meaning,
            reason=given["reason"],
            case=given.get("case", ""),
            label_ms=label.last_ms,
        )

    @property
    def _default_currency(self) -> str:
        return self._mapping.options.currency_default or ""

    def _amount(self, text: str) -> int | str:
        options = self._mapping.options
        if options.decimal_comma:
            text = text.replace(".", "").replace(" ", "").replace("'", "").replace(",", ".")
        if options.negative_amounts:
            text = text.removeprefix("-")
        if not _AMOUNT.fullmatch(text):
            return "expected an amount such as 12.50, got " + ("another text" if text else "none")
        # A file of a currency without minor units may write 1200 or 1200.00.
        plain = f"{Decimal(text).normalize():f}"
        found = minor_units(plain, self._schema.minor_digits, place="amount")
        return (
            f"expected {found.expected}, got {found.got}" if isinstance(found, Problem) else found
        )

    def _span(self, text: str) -> Span | str:
        form = self._mapping.options.date_format
        try:
            moment = datetime.strptime(text, form) if form else datetime.fromisoformat(text)  # noqa: DTZ007 - below
        except ValueError:
            return f"expected {form or 'ISO 8601'}, got " + ("another text" if text else "nothing")
        # strptime and fromisoformat give midnight for a date alone.
        is_day = not re.search("%[HIsXc]", form) if form else len(text) <= len("2026-11-01")
        if moment.tzinfo is None:
            zone = self._mapping.zone
            if zone is None:
                raise DataError(
                    "mapping: [options] time_zone is needed, such as Europe/Berlin: the file's "
                    "times have no offset"
                )
            moment = moment.replace(tzinfo=zone)
        try:
            first = _milliseconds(moment)
            # The next midnight by the calendar: a day of summer time's end has 25 hours.
            last = _milliseconds(moment + DAY) - 1 if is_day else first
        except (OverflowError, ValueError):
            return "expected a time of the years 2000 to 2100"
        if not EVENT_TIME_MS_MIN <= first <= last <= EVENT_TIME_MS_MAX:
            return "expected a time of the years 2000 to 2100"
        return Span(first, last)


def _milliseconds(moment: datetime) -> int:
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
