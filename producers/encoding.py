"""Columns to wire records: the fast path of publishing.

A batch is written as JSON lines in one call and then cut apart, since JSON never holds a bare
line end. Field names are the schema's own; amounts travel as decimal text, so that no reader has
to guess what a binary float stood for.

>>> from pipeline.schema import load_schema
>>> from producers.simulator import SimulatorOptions, simulate
>>> day = next(simulate(SimulatorOptions(customers=10, terminals=10)))
>>> TransactionEncoder(load_schema("card")).encode(day.slice(0, 1))[0].decode()
'{"transaction_id":"t-0-0","event_time":1522551138092,"card_id":"c5",..."amount":"51.20",...}'
>>> amount_texts([950, 5, 0], 2), amount_texts([950], 0)
(['9.50', '0.05', '0.00'], ['950'])
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.incumbent import Incumbent, IncumbentFields, IncumbentReader
from pipeline.label_words import Source, Verdict
from pipeline.schema import Schema
from producers.batch import EventBatch

SOURCE: Source = "simulated"
ID_LENGTH_MAX = 64
LABEL_PREFIX = "l-"

_LINES = msgspec.json.Encoder()


class TransactionEncoder:
    """Writes the events of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._digits = schema.minor_digits
        self._has_amount = schema.amount is not None
        self._has_currency = schema.currency is not None
        self._keyed_by_id = int(schema.is_keyed_by_id)
        self._incumbent, self._declined = schema.incumbent, schema.declined
        # Each only where there is something to say; otherwise events are as ever.
        said = schema.incumbent_fields
        answer = (schema.response,) if schema.response else ()
        self._records = {
            fields: _record("Transaction", (*schema.event_fields, *fields), optional=fields)
            for fields in {(), said, answer, (*said, *answer)}
        }
        self._said, self._answer = said, answer

    def encode(self, batch: EventBatch) -> list[bytes]:
        """Give each event's wire form, in order."""
        currency = [batch.currency] if self._has_currency else []
        amount = [amount_texts(batch.amount_minor.tolist(), self._digits)]
        columns: list[Sequence[Any]] = [
            batch.transaction_id,
            batch.event_time_ms.tolist(),
            *batch.keys[self._keyed_by_id :],
            *(amount if self._has_amount else []),
            *currency,
            *batch.categories,
            # A missing number is NaN, which is written as null.
            *batch.numbers.T.tolist(),
        ]
        fields: tuple[str, ...] = ()
        if self._incumbent is not None and batch.incumbents:
            columns += incumbent_columns(batch.incumbents, self._incumbent, missing=msgspec.UNSET)
            fields = self._said
        if self._answer and batch.declined is not None and batch.declined.any():
            columns.append(response_column(batch.declined, self._declined, missing=msgspec.UNSET))
            fields = (*fields, *self._answer)
        return _encoded(self._records[fields], columns)


class LabelEncoder:
    """Writes labels of events of one schema, as a simulation of the world gives them."""

    def __init__(self, schema: Schema) -> None:
        self._has_key = not schema.is_keyed_by_id
        key = [schema.partition_key] if self._has_key else []
        fields = ("label_id", schema.event_id, *key, "verdict", "source", "label_time")
        self._record = _record("Label", fields)

    def encode(
        self,
        transaction_id: Sequence[str],
        key: Sequence[str],
        is_fraud: Sequence[bool],
        label_time_ms: Sequence[int],
    ) -> list[bytes]:
        """Give each label's wire form, in order."""
        verdicts: tuple[Verdict, Verdict] = ("genuine", "fraud")
        columns = (
            [label_id_of(text) for text in transaction_id],
            transaction_id,
            *([key] if self._has_key else []),
            [verdicts[fraud] for fraud in is_fraud],
            [SOURCE] * len(key),
            label_time_ms,
        )
        return _encoded(self._record, columns)


def incumbent_columns(
    incumbents: Sequence[Incumbent | None], fields: IncumbentFields, *, missing: Any
) -> list[list[Any]]:
    """Give what the present system said in its own words, a column for each of its fields."""
    reader = IncumbentReader(fields)

    def column(values: Iterable[Any]) -> list[Any]:
        return [missing if value is None else value for value in values]

    scores = (item and reader.written_score(item.score) for item in incumbents)
    actions = (item and reader.written_action(item.action) for item in incumbents)
    pairs = ((fields.score, scores), (fields.action, actions))
    return [column(values) for field, values in pairs if field]


def response_column(
    declined: NDArray[np.bool_], codes: Sequence[str], *, missing: Any
) -> list[Any]:
    """Give the first code of a refusal where an attempt was declined."""
    return [codes[0] if refused else missing for refused in declined.tolist()]


def label_id_of(transaction_id: str, prefix: str = LABEL_PREFIX) -> str:
    """Derive a label's id from its transaction's, so that publishing twice teaches once.

    >>> label_id_of("t1"), len(label_id_of("t" * 64)), label_id_of("t1", "cb-")
    ('l-t1', 34, 'cb-t1')
    """
    if len(transaction_id) <= ID_LENGTH_MAX - len(prefix):
        return prefix + transaction_id
    digest = hashlib.blake2b(transaction_id.encode(), digest_size=16)
    return prefix + digest.hexdigest()


def amount_texts(minor: Sequence[int], digits: int) -> list[str]:
    """Write minor units as decimal text with all its places."""
    if digits == 0:
        return [str(amount) for amount in minor]
    unit = 10**digits
    return [f"{amount // unit}.{amount % unit:0{digits}d}" for amount in minor]


def _record(
    name: str, fields: Sequence[str], *, optional: Collection[str] = ()
) -> type[msgspec.Struct]:
    # Attributes are numbered, so that no field name of a schema can be a Python keyword.
    names = {f"field{number}": field for number, field in enumerate(fields)}
    specification = [
        (attribute, Any, msgspec.UNSET) if field in optional else (attribute, Any)
        for attribute, field in names.items()
    ]
    return msgspec.defstruct(name, specification, rename=names, gc=False)


def _encoded(record: type[msgspec.Struct], columns: Sequence[Sequence[Any]]) -> list[bytes]:
    # A list, since of any other iterable msgspec 0.22 keeps a reference for ever.
    lines = _LINES.encode_lines(list(map(record, *columns)))
    return lines.split(b"\n")[:-1]
