"""Ordinary events by columns: each record is read by its types, then whole columns are looked at.

To look at every field of a record takes several times as long as to read it. Most events are
ordinary, and of a column that is seen at once: all its ids together have no odd character, none is
long enough for a card number, all records together have no colon more than their fields need. What
is not seen to be ordinary is set aside, to be decoded by itself (`pipeline/transactions.py`). That
is the definition: what is passed here has the same values there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.card_numbers import NUMBER_MIN, places_of_card_numbers
from pipeline.currencies import CURRENCIES
from pipeline.events import (
    AMOUNT_MINOR_MAX,
    EPOCH,
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    MILLISECOND,
    NO_CATEGORY,
    RECORD_BYTES_MAX,
    Amount,
    Currency,
    Field,
    Id,
    Response,
    struct_of,
)
from pipeline.incumbent import NO_RECORD_FITS, IncumbentColumns
from pipeline.schema import RESPONSE, Schema
from pipeline.strict_json import colons_are_known, shape_problem

Column = Sequence[Any] | NDArray[Any]

# Texts: a decoder would look at their form one by one, which costs more than all the rest.
_TEXT = str | msgspec.UnsetType
_LOOSE = {Id: str, Amount: str | int | float, Currency: _TEXT, Response: _TEXT}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_ID_LENGTH_MAX = 64
# Of at most 15 digits.
_AMOUNT = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,8})?")
_AMOUNTS = re.compile(rf"(?:{_AMOUNT.pattern}\n)*+")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Ordinary:
    """The ordinary events as columns, the rows that they came from, and the rows of all others.

    The columns are id, time, amount, currency, numbers, incumbent and whether the attempt was
    declined, and one for each entity and category.
    """

    columns: list[Column]
    rows: list[int]
    aside: list[int]


class OrdinaryEvents:
    """Tells the ordinary events of one schema from others; `fields` are those of its decoder."""

    def __init__(self, schema: Schema, fields: Sequence[Field]) -> None:
        self._schema = schema
        # Nothing that an event holds leads back to it (gc=False).
        loose = [
            (name, field, _LOOSE.get(kind, kind), value) for name, field, kind, value in fields
        ]
        event = struct_of("OrdinaryEvent", loose, gc=False)
        self._read = msgspec.json.Decoder(event).decode
        self._attributes: tuple[str, ...] = event.__struct_fields__
        self._fields = frozenset(field for _, field, _, _ in fields)
        self._optional = {
            attribute: default
            for attribute, _, _, default in fields
            if default is not msgspec.NODEFAULT
        }
        self._required = len(fields) - len(self._optional)
        keys, entities = key_attributes(schema), len(schema.entities)
        self._ids, self._keys, self._categories = {"id", *keys[:entities]}, keys, keys[entities:]
        self._numbers = [name for name in self._attributes if name.startswith("number")]
        self._declined = frozenset(schema.declined)
        self._incumbent = IncumbentColumns(schema.incumbent)
        self._said = [attribute for attribute, *_ in self._incumbent.fields]

    def decode(self, values: Sequence[bytes | None]) -> Ordinary:
        """Tell ordinary records from others."""
        rows, read = self._readable(values)
        if not rows:
            return Ordinary([], [], list(range(len(values))))
        is_whole = len(rows) == len(values)
        columns, odd = self._columns(read, values if is_whole else [values[row] for row in rows])
        if is_whole and not odd:
            return Ordinary(columns, rows, [])
        kept = [place for place in range(len(rows)) if place not in odd]
        rows = [rows[place] for place in kept]
        columns = [[column[place] for place in kept] for column in columns]
        return Ordinary(columns, rows, sorted(set(range(len(values))).difference(rows)))

    def _readable(self, values: Sequence[Any]) -> tuple[list[int], list[Any]]:
        """Read what can be read; gives the rows and what was read."""
        if all(values) and max(map(len, values), default=0) <= RECORD_BYTES_MAX:
            with suppress(*_UNREADABLE):
                return list(range(len(values))), list(map(self._read, values))
        rows, read = [], []
        for row, value in enumerate(values):
            if value and len(value) <= RECORD_BYTES_MAX:
                with suppress(*_UNREADABLE):
                    read.append(self._read(value))
                    rows.append(row)
        return rows, read

    def _columns(self, read: list[Any], values: Sequence[Any]) -> tuple[list[Column], set[int]]:
        """Give what was read as columns, and the places of what is not ordinary."""
        found = map(list, zip(*map(msgspec.structs.astuple, read), strict=True))
        given: dict[str, list[Any]] = dict(zip(self._attributes, found, strict=True))
        odd = self._misshapen(given, values)
        times = _milliseconds(given["time"])
        if min(times) < EVENT_TIME_MS_MIN or max(times) > EVENT_TIME_MS_MAX:
            odd |= _places(not EVENT_TIME_MS_MIN <= time <= EVENT_TIME_MS_MAX for time in times)
        amounts: Column = [0] * len(read)
        if self._schema.amount:
            amounts, odd_amounts = minor_columns(given["amount"], self._schema.minor_digits)
            odd |= odd_amounts
        currency = [self._schema.currency_default] * len(read)
        if self._schema.currency:
            currency = _with_default(given["currency"], self._schema.currency_default)
            if not CURRENCIES.issuperset(currency):
                odd |= _places(code not in CURRENCIES for code in currency)
        for attribute in self._categories:
            given[attribute] = _with_default(given[attribute], NO_CATEGORY)
        for attribute in self._ids:
            odd |= _odd_ids(given[attribute])
        for attribute in self._ids.union(self._categories):
            odd.update(places_of_card_numbers(given[attribute]))
        # A missing number is None, which becomes NaN.
        numbers = np.array([given[name] for name in self._numbers], dtype=np.float64)
        numbers = numbers.reshape(len(self._numbers), len(read)).T
        if (numbers >= NUMBER_MIN).any():
            odd |= _places(bool((row >= NUMBER_MIN).any()) for row in numbers)
        incumbents, odd_incumbents = self._incumbents(read, given)
        odd |= odd_incumbents
        declined: Column = [False] * len(read)
        if self._schema.response:
            declined = [code in self._declined for code in given["response"]]
            codes = set(given["response"]) - {msgspec.UNSET}
            if wrong := {code for code in codes if not RESPONSE.fullmatch(code)}:
                odd |= _places(code in wrong for code in given["response"])
        keys = [given[attribute] for attribute in self._keys]
        return [given["id"], times, amounts, currency, numbers, incumbents, declined, *keys], odd

    def _incumbents(
        self, read: list[Any], given: Mapping[str, list[Any]]
    ) -> tuple[Column, set[int]]:
        """Give what the present system said of each, and the places of what may be deep."""
        if all(given[name].count(msgspec.UNSET) == len(read) for name in self._said):
            return [None] * len(read), set()
        said = [self._incumbent.read(record) for record in read]
        return [item for item, _ in said], _places(count == NO_RECORD_FITS for _, count in said)

    def _misshapen(self, given: Mapping[str, list[Any]], values: Sequence[bytes]) -> set[int]:
        """Give the places of records with a key twice, or something else that was passed over.

        A record has a colon at least for each known field, and two for a time as text, if none is
        hidden behind a backslash. So where all records have as many as that together, each has.
        """
        count = len(values)
        known = self._required * count + sum(
            count - given[name].count(default) for name, default in self._optional.items()
        )
        texts = count - list(map(type, given["time"])).count(int)
        whole = b"".join(values)
        if whole.count(b":") == known + 2 * texts and not (texts and b"\\" in whole):
            return set()
        optional = [(given[name], default) for name, default in self._optional.items()]
        found = set()
        for place, value in enumerate(values):
            known = self._required + sum(
                column[place] is not default for column, default in optional
            )
            has_text = not isinstance(given["time"][place], int)
            if not colons_are_known(value, known, has_time_in_text=has_text) and (
                shape_problem(value, self._fields)
            ):
                found.add(place)
        return found


def key_attributes(schema: Schema) -> list[str]:
    """Give the attribute of each entity and category of an event; an event's id may be the key."""
    return [
        "id" if item.field == schema.event_id else f"key{number}"
        for number, item in enumerate(schema.keyed)
    ]


def minor_columns(
    amounts: Sequence[str | float], digits: int
) -> tuple[NDArray[np.int64], set[int]]:
    """Give amounts in whole minor units, and the places of those that must be looked at.

    What was written, and the whole number of minor units, are decimals of at most 15 digits each,
    so they are equal if they are the same float.

    >>> minor_columns(["9.50", 9.5, 12, "1e3"], 2)
    (array([ 950,  950, 1200,    0]), {3})
    """
    # Too large is too large: no float may overflow.
    written, unit = np.clip(_floats(amounts), -1.0, AMOUNT_MINOR_MAX + 1.0), 10.0**digits
    whole = np.rint(written * unit)
    fits = (whole / unit == written) & (whole >= 0) & (whole <= AMOUNT_MINOR_MAX)
    if fits.all():
        return whole.astype(np.int64), set()
    return np.where(fits, whole, 0).astype(np.int64), _places(~fits)


def _floats(amounts: Sequence[Any]) -> NDArray[np.float64]:
    kinds = set(map(type, amounts))
    if kinds == {float} or (kinds == {str} and _AMOUNTS.fullmatch("\n".join(amounts) + "\n")):
        return np.array(list(map(float, amounts)))
    return np.array([_float(amount) for amount in amounts])


def _float(amount: str | float) -> float:
    if isinstance(amount, str):
        return float(amount) if _AMOUNT.fullmatch(amount) else np.nan
    # Some whole numbers are too large for a float.
    return float(amount) if amount <= AMOUNT_MINOR_MAX else np.nan


def _milliseconds(times: Sequence[Any]) -> list[int]:
    return [time if isinstance(time, int) else (time - EPOCH) // MILLISECOND for time in times]


def _odd_ids(texts: Sequence[str]) -> set[int]:
    whole = "".join(texts).encode(errors="surrogatepass")
    if (
        not whole.translate(None, _ID_CHARACTERS)
        and all(texts)
        and max(map(len, texts)) <= _ID_LENGTH_MAX
    ):
        return set()
    return _places(not _ID.fullmatch(text) for text in texts)


def _with_default(column: list[Any], default: str) -> list[str]:
    if msgspec.UNSET not in column:
        return column
    return [default if item is msgspec.UNSET else item for item in column]


def _places(flags: Iterable[object]) -> set[int]:
    return {place for place, flag in enumerate(flags) if flag}
