"""Events from bytes to columns: ordinary ones by columns, each other one by itself.

>>> from pipeline.schema import load_schema
>>> decoder = TransactionDecoder(load_schema("card"))
>>> batch, rows, rejected = decoder.decode([
...     b'{"transaction_id":"t1","event_time":"2026-11-01T12:00:00Z","card_id":"c1",'
...     b'"terminal_id":"m1","amount":"9.50"}',
...     b'{"transaction_id":"t2"}',
... ])
>>> batch.transaction_id, batch.amount_minor.tolist(), batch.currency
(['t1'], [950], ['EUR'])
>>> str(rejected[0].problem)
'schema at $.event_time: expected a value, got nothing'
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from pipeline.currencies import CURRENCIES
from pipeline.events import (
    NO_CATEGORY,
    Amount,
    CategoryText,
    Currency,
    Id,
    Moment,
    Number,
    Problem,
    RecordDecoder,
    Rejected,
    Response,
    Transactions,
    card_number_problem,
    field_of,
    milliseconds_of,
    minor_units,
)
from pipeline.incumbent import IncumbentColumns
from pipeline.ordinary_events import OrdinaryEvents, key_attributes
from pipeline.schema import Schema

# For fewer records, a look at each costs less than one at columns.
ORDINARY_MIN = 6


class TransactionDecoder:
    """Decodes the events of one schema, a batch at a time."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._key_fields = [item.field for item in schema.keyed]
        kinds = [Id] * len(schema.entities) + [CategoryText] * len(schema.categories)
        fields = [
            field_of("id", schema.event_id, Id),
            field_of("time", schema.event_time, Moment),
        ]
        if schema.amount:
            fields.append(field_of("amount", schema.amount, Amount))
        default = msgspec.UNSET if schema.currency_default else msgspec.NODEFAULT
        self._has_currency_default = default is msgspec.UNSET
        if schema.currency:
            fields.append(field_of("currency", schema.currency, Currency, default))
        self._key_attributes = key_attributes(schema)
        for attribute, name, kind in zip(
            self._key_attributes, self._key_fields, kinds, strict=True
        ):
            category_default = msgspec.UNSET if kind is CategoryText else msgspec.NODEFAULT
            if attribute != "id":
                fields.append(field_of(attribute, name, kind, category_default))
        numbers = [item.field for item in schema.numbers]
        self._guarded_fields = (schema.event_id, *self._key_fields, *numbers)
        self._number_attributes = tuple(f"number{place}" for place in range(len(schema.numbers)))
        for attribute, item in zip(self._number_attributes, schema.numbers, strict=True):
            fields.append(field_of(attribute, item.field, Number, None))
        self._incumbent = IncumbentColumns(schema.incumbent)
        fields += self._incumbent.fields
        self._declined = frozenset(schema.declined)
        if schema.response:
            fields.append(field_of("response", schema.response, Response, msgspec.UNSET))
        self._decoder = RecordDecoder("Transaction", fields)
        self._ordinary = OrdinaryEvents(schema, fields)
        self._digits = schema.minor_digits

    def decode(
        self, values: Sequence[bytes | None]
    ) -> tuple[Transactions, list[int], list[Rejected]]:
        """Decode records; gives the accepted as columns, their rows, and the rejected."""
        if len(values) < ORDINARY_MIN:
            return self.decode_each(values)
        found = self._ordinary.decode(values)
        if not found.aside:
            return self._transactions(found.columns), found.rows, []
        accepted = dict(zip(found.rows, zip(*found.columns, strict=True), strict=True))
        rejected = self._decode_rows(values, found.aside, accepted)
        rows = sorted(accepted)
        columns = list(zip(*(accepted[row] for row in rows), strict=True))
        return self._transactions(columns), rows, rejected

    def decode_each(
        self, values: Sequence[bytes | None]
    ) -> tuple[Transactions, list[int], list[Rejected]]:
        """Decode records one by one, which says what `decode` has to give."""
        accepted: dict[int, tuple[Any, ...]] = {}
        rejected = self._decode_rows(values, range(len(values)), accepted)
        columns = list(zip(*accepted.values(), strict=True))
        return self._transactions(columns), list(accepted), rejected

    def _decode_rows(
        self,
        values: Sequence[bytes | None],
        rows: Iterable[int],
        accepted: dict[int, tuple[Any, ...]],
    ) -> list[Rejected]:
        """Decode rows by themselves into `accepted`; gives those that are rejected."""
        rejected: list[Rejected] = []
        for row in rows:
            result = self._decode_one(values[row])
            if isinstance(result, Problem):
                rejected.append(Rejected(row, result))
            else:
                accepted[row] = result
        return rejected

    def _decode_one(self, value: bytes | None) -> tuple[Any, ...] | Problem:
        record = self._decoder.decode(value)
        if isinstance(record, Problem):
            return record
        assert value is not None
        time = milliseconds_of(record.time, self._schema.event_time)
        if isinstance(time, Problem):
            return time
        amount = self._amount(record)
        if isinstance(amount, Problem):
            return amount
        keys = [getattr(record, attribute) for attribute in self._key_attributes]
        numbers = [getattr(record, attribute) for attribute in self._number_attributes]
        optional = len(numbers) - numbers.count(None) + self._category_defaults(keys)
        incumbent, given = self._incumbent.read(record)
        optional += given
        currency = self._schema.currency_default
        if self._schema.currency and record.currency is not msgspec.UNSET:
            currency = record.currency
            optional += self._has_currency_default
        declined = False
        if self._schema.response and record.response is not msgspec.UNSET:
            declined = record.response in self._declined
            optional += 1
        problem = (
            self._decoder.checked(record, value, optional=optional)
            or self._unknown_currency(currency)
            or card_number_problem(self._guarded_fields, (record.id, *keys, *numbers))
        )
        return problem or (record.id, time, amount, currency, numbers, incumbent, declined, *keys)

    def _category_defaults(self, keys: list[Any]) -> int:
        """Put in what categories that were not given are; gives how many were given."""
        given = 0
        if self._schema.categories:
            for place in range(len(self._schema.entities), len(keys)):
                if keys[place] is msgspec.UNSET:
                    keys[place] = NO_CATEGORY
                else:
                    given += 1
        return given

    def _unknown_currency(self, currency: str) -> Problem | None:
        if currency in CURRENCIES or not self._schema.currency:
            return None
        place = f"$.{self._schema.currency}"
        return Problem("schema", place, "a currency code of ISO 4217", "another text")

    def _amount(self, record: Any) -> int | Problem:
        field = self._schema.amount
        return minor_units(record.amount, self._digits, place=f"$.{field}") if field else 0

    def _transactions(self, columns: Sequence[Any]) -> Transactions:
        if not columns:
            columns = [()] * (7 + len(self._key_fields))
        shape = (len(columns[0]), len(self._number_attributes))
        return Transactions(
            transaction_id=list(columns[0]),
            event_time_ms=np.array(columns[1], dtype=np.int64),
            keys=tuple(list(column) for column in columns[7:]),
            amount_minor=np.array(columns[2], dtype=np.int64),
            currency=list(columns[3]),
            # A missing number is None, which becomes NaN.
            numbers=np.array(columns[4], dtype=np.float32).reshape(shape),
            incumbents=tuple(columns[5]) if any(columns[5]) else (),
            declined=np.array(columns[6], dtype=np.bool_) if self._schema.response else None,
        )
