"""The strict codec: bytes become events, labels or outcomes, or a problem says where and why.

A rejected record is a value, not an exception: the worker sends it to the dead letters, replay
counts it. No value appears in what is said of it, since it may be a card number. Events are decoded
in `pipeline/transactions.py`.

>>> from pipeline.schema import load_schema
>>> label = b'{"label_id":"l1","transaction_id":"t1","card_id":"c1","verdict":"fraud"}'
>>> str(LabelDecoder(load_schema("card")).decode_one(label))
'schema at $.source: expected a value, got nothing'
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.card_numbers import field_with_card_number
from pipeline.errors import Reason
from pipeline.incumbent import Incumbent
from pipeline.label_words import OUTCOME_KINDS, SOURCES, OutcomeKind, Source
from pipeline.schema import Schema
from pipeline.strict_json import colons_are_known, shape_problem
from pipeline.texts import taken

RECORD_BYTES_MAX = 16 * 1024
# Card schemes allow twelve digits; ten million of the major unit is beyond any card payment.
AMOUNT_MINOR_MAX = 1_000_000_000
# Seconds or microseconds taken for milliseconds fall outside of these years.
EVENT_TIME_MS_MIN = 946_684_800_000
EVENT_TIME_MS_MAX = 4_102_444_800_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")] | msgspec.UnsetType
CategoryText = Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | msgspec.UnsetType
Moment = Annotated[datetime, msgspec.Meta(tz=True)] | int
# What a number of another unit would be, to say which one was taken for milliseconds.
OTHER_UNITS = (("seconds", 1_000, 1), ("microseconds", 1, 1_000), ("nanoseconds", 1, 1_000_000))
# What a 32-bit float can hold; infinity is not JSON anyway.
NUMBER_MAX = float(np.finfo(np.float32).max)
Number = Annotated[float, msgspec.Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)] | None
Response = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,32}\Z")] | msgspec.UnsetType
Amount = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,10}(\.[0-9]{1,8})?\Z")] | int | float

# What a category is that an event does not give.
NO_CATEGORY = "none"
# Attribute, name in records, type and default of what a decoder reads.
Field = tuple[str, str, Any, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a record is refused: a reason of the closed list, where, what was expected, what came."""

    reason: Reason
    place: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.reason} at {self.place}: expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be decoded: its row in what was given, and the problem."""

    row: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class Transactions:
    """A batch of events as columns, all of one length, in the order of their log.

    `keys` holds a column of ids for each entity of the schema, the partition key first, then one
    for each category. `numbers` has a column for each number of the schema, NaN where it is
    missing. `incumbents` stand beside the events: what the present system said of each; empty where
    it spoke of none. `declined` says which attempts were refused; `None` where the schema has no
    field for it. The answer comes after the decision, so no feature of the event itself sees it.
    """

    transaction_id: Sequence[str]
    event_time_ms: NDArray[np.int64]
    keys: tuple[Sequence[str], ...]
    amount_minor: NDArray[np.int64]
    currency: Sequence[str]
    numbers: NDArray[np.float32]
    incumbents: Sequence[Incumbent | None] = ()
    declined: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.transaction_id)

    def take(self, rows: NDArray[np.int64]) -> "Transactions":
        """Give the batch of these rows, in their order."""
        return Transactions(
            transaction_id=taken(self.transaction_id, rows),
            event_time_ms=self.event_time_ms[rows],
            keys=tuple(taken(ids, rows) for ids in self.keys),
            amount_minor=self.amount_minor[rows],
            currency=taken(self.currency, rows),
            numbers=self.numbers[rows],
            incumbents=[self.incumbents[row] for row in rows] if self.incumbents else (),
            declined=None if self.declined is None else self.declined[rows],
        )

    def slice(self, start: int, stop: int) -> "Transactions":
        """Give the batch of rows `start` to `stop`, without that one."""
        return Transactions(
            transaction_id=self.transaction_id[start:stop],
            event_time_ms=self.event_time_ms[start:stop],
            keys=tuple(ids[start:stop] for ids in self.keys),
            amount_minor=self.amount_minor[start:stop],
            currency=self.currency[start:stop],
            numbers=self.numbers[start:stop],
            incumbents=self.incumbents[start:stop],
            declined=None if self.declined is None else self.declined[start:stop],
        )


def no_numbers(count: int) -> NDArray[np.float32]:
    """Give the numbers of so many events of a schema that has none."""
    return np.empty((count, 0), dtype=np.float32)


class Label(msgspec.Struct, frozen=True, gc=False):
    """The truth about one event, when it became known and who says so."""

    label_id: str
    transaction_id: str
    key: str
    is_fraud: bool
    source: Source
    label_time_ms: int
    by: str | None = None
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event after its decision."""

    transaction_id: str
    key: str
    outcome: OutcomeKind
    outcome_time_ms: int


def struct_of(name: str, fields: Sequence[Field], *, gc: bool = True) -> type[msgspec.Struct]:
    """Give the typed struct that records of these fields are decoded into."""
    # Attributes are numbered, so that no field name of a schema can be a Python keyword.
    names = {attribute: field for attribute, field, _, _ in fields}
    specification: list[Any] = [
        (attribute, kind) if default is msgspec.NODEFAULT else (attribute, kind, default)
        for attribute, _, kind, default in fields
    ]
    return msgspec.defstruct(name, specification, rename=names, kw_only=True, gc=gc)


class RecordDecoder:
    """Bytes to one typed struct, or to a `Problem`."""

    def __init__(self, name: str, fields: Sequence[Field]) -> None:
        struct = struct_of(name, fields)
        self._decoder = msgspec.json.Decoder(struct)
        self._fields = frozenset(field for _, field, _, _ in fields)
        self._required = sum(default is msgspec.NODEFAULT for _, _, _, default in fields)

    def decode(self, value: bytes | None) -> Any:
        if value is None:
            return Problem("malformed", "$", "a JSON object", "a null value")
        if len(value) > RECORD_BYTES_MAX:
            return Problem(
                "too_large", "$", f"at most {RECORD_BYTES_MAX} bytes", f"{len(value)} bytes"
            )
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError as error:
            return _problem_of(str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Problem("malformed", "$", "a JSON object in UTF-8", _without_values(error))

    def checked(self, record: Any, value: bytes, *, optional: int) -> Problem | None:
        """Look at what decoding passes over; `optional` is how many optional fields were given."""
        # Of a record of known fields alone everything was looked at.
        has_text, given = isinstance(record.time, datetime), self._required + optional
        if colons_are_known(value, given, has_time_in_text=has_text):
            return None
        said = shape_problem(value, self._fields)
        return None if said is None else Problem("malformed", "$", *said)


def _without_values(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__


_MISSING = re.compile(r"^Object missing required field `(.+?)`(?: - at `(.+)`)?$")
_WRONG = re.compile(r"^Expected (.+?)(?:, got (.+?))?(?: - at `(.+)`)?$")


def _problem_of(message: str) -> Problem:
    """Take msgspec's sentence apart; it names types and places, never values."""
    if found := _MISSING.match(message):
        place = f"{found[2] or '$'}.{found[1]}"
        return Problem("schema", place, "a value", "nothing")
    if found := _WRONG.match(message):
        got = (found[2] or "another value").replace("`", "")
        return Problem("schema", found[3] or "$", found[1].replace("`", ""), got)
    # From the right: the value of an enumeration is quoted, and could hold anything.
    said, _, place = message.rpartition(" - at `")
    said = "another value" if message.startswith("Invalid enum value") else said or message
    return Problem("schema", place.rstrip("`") or "$", "a value of the documented form", said)


def field_of(attribute: str, name: str, kind: Any, default: Any = msgspec.NODEFAULT) -> Field:
    return (attribute, name, kind, default)


def _key_of(schema: Schema) -> tuple[str, list[Any]]:
    """Give the attribute that holds a record's key, and its field unless that is the event id."""
    if schema.is_keyed_by_id:
        return "transaction_id", []
    return "key", [field_of("key", schema.partition_key, Id)]


class LabelDecoder:
    """Decodes labels of events of one schema."""

    def __init__(self, schema: Schema) -> None:
        fields = self._fields = schema.feedback
        ids = (fields.label_id, schema.event_id, schema.partition_key)
        self._text_fields = (*ids, fields.by, fields.supersedes)
        self._key, key_fields = _key_of(schema)
        self._sources = {source: source for source in SOURCES} | fields.sources
        self._decoder = RecordDecoder(
            "Label",
            [
                field_of("label_id", fields.label_id, Id),
                field_of("transaction_id", schema.event_id, Id),
                *key_fields,
                field_of("verdict", fields.verdict, Literal[*fields.fraud, *fields.genuine]),
                field_of("source", fields.source, Literal[*self._sources]),
                field_of("time", fields.time, Moment),
                field_of("by", fields.by, str | None, None),
                field_of("supersedes", fields.supersedes, Id | None, None),
            ],
        )

    def decode_one(self, value: bytes | None) -> Label | Problem:
        """Decode one label, or say what is wrong with it."""
        record = self._decoder.decode(value)
        if isinstance(record, Problem):
            return record
        assert value is not None
        time = milliseconds_of(record.time, self._fields.time)
        if isinstance(time, Problem):
            return time
        key = getattr(record, self._key)
        texts = (record.label_id, record.transaction_id, key, record.by, record.supersedes)
        optional = (record.by is not None) + (record.supersedes is not None)
        checked = self._decoder.checked(record, value, optional=optional)
        if problem := checked or card_number_problem(self._text_fields, texts):
            return problem
        return Label(
            label_id=record.label_id,
            transaction_id=record.transaction_id,
            key=key,
            is_fraud=record.verdict in self._fields.fraud,
            source=self._sources[record.source],
            label_time_ms=time,
            by=record.by,
            supersedes=record.supersedes,
        )


class OutcomeDecoder:
    """Decodes outcomes of events of one schema."""

    def __init__(self, schema: Schema) -> None:
        fields = self._fields = schema.outcomes
        self._id_fields = (schema.event_id, schema.partition_key)
        self._key, key_fields = _key_of(schema)
        self._words = {kind: kind for kind in OUTCOME_KINDS} | fields.words
        self._decoder = RecordDecoder(
            "Outcome",
            [
                field_of("transaction_id", schema.event_id, Id),
                *key_fields,
                field_of("outcome", fields.outcome, Literal[*self._words]),
                field_of("time", fields.time, Moment),
            ],
        )

    def decode_one(self, value: bytes | None) -> Outcome | Problem:
        """Decode one outcome, or say what is wrong with it."""
        record = self._decoder.decode(value)
        if isinstance(record, Problem):
            return record
        assert value is not None
        time = milliseconds_of(record.time, self._fields.time)
        if isinstance(time, Problem):
            return time
        key = getattr(record, self._key)
        checked = self._decoder.checked(record, value, optional=0)
        if problem := checked or card_number_problem(self._id_fields, (record.transaction_id, key)):
            return problem
        return Outcome(record.transaction_id, key, self._words[record.outcome], time)


def milliseconds_of(time: datetime | int, field: str) -> int | Problem:
    milliseconds = time if isinstance(time, int) else (time - EPOCH) // MILLISECOND
    if EVENT_TIME_MS_MIN <= milliseconds <= EVENT_TIME_MS_MAX:
        return milliseconds
    if isinstance(time, int):
        for unit, times, part in OTHER_UNITS:
            if EVENT_TIME_MS_MIN <= time * times // part <= EVENT_TIME_MS_MAX:
                got = f"what would be {unit}"
                return Problem("schema", f"$.{field}", "milliseconds since 1970", got)
    got = "an earlier one" if milliseconds < EVENT_TIME_MS_MIN else "a later one"
    return Problem("schema", f"$.{field}", "a time of the years 2000 to 2100", got)


def minor_units(amount: str | float, digits: int, *, place: str) -> int | Problem:
    """Turn an amount into whole minor units, exactly, or say why that cannot be.

    >>> minor_units("9.50", 2, place="$.amount"), minor_units(9.5, 2, place="$.amount")
    (950, 950)
    >>> str(minor_units("0.001", 2, place="$.amount"))
    'schema at $.amount: expected at most 2 decimal places, got more'
    """
    # The shortest decimal that reads back as the same float is the number that was written.
    exact = Decimal(amount) if isinstance(amount, str | int) else Decimal(repr(amount))
    scaled = exact.scaleb(digits)
    if not 0 <= scaled <= AMOUNT_MINOR_MAX:
        got = "a negative amount" if scaled < 0 else "more"
        limit = Decimal(AMOUNT_MINOR_MAX).scaleb(-digits)
        return Problem("schema", place, f"an amount of 0 to {limit:f}", got)
    whole = int(scaled)
    if whole != scaled:
        return Problem("schema", place, f"at most {digits} decimal places", "more")
    return whole


def card_number_problem(
    fields: Sequence[str], values: Sequence[str | float | None]
) -> Problem | None:
    field = field_with_card_number(fields, values)
    if field is None:
        return None
    return Problem("card_number", f"$.{field}", "a token", "a card number")
