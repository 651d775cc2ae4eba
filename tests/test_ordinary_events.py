"""Ordinary events are decoded by columns, and come out as if each had been decoded by itself."""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.mutations import Mutator
from pipeline.events import AMOUNT_MINOR_MAX, RECORD_BYTES_MAX, Rejected, Transactions, minor_units
from pipeline.incumbent import IncumbentFields
from pipeline.ordinary_events import minor_columns
from pipeline.schema import Schema, load_schema, parse_schema
from pipeline.transactions import TransactionDecoder
from producers.encoding import TransactionEncoder
from producers.simulator import SimulatorOptions, simulate
from tests.armour.cases import CARD_NUMBER, GOOD
from tests.strategies import CARD, HANDBOOK, MONDAY_MS
from tests.test_armour import CASES
from tests.test_keyed_tables import CLAIMS, NO_AMOUNT

IN_YEN = parse_schema(
    """
    name = "yen"
    version = 1
    event = {id = "id", time = "time", amount = "amount", currency = "currency", minor_digits = 0}
    entity = [{name = "card", field = "card"}]
    incumbent = {score = "points", scale = [0, 999]}
    """,
    place="yen.toml",
)
SCHEMAS = {
    "card": CARD,
    "card with words": replace(CARD, incumbent=IncumbentFields("points", "verdict", (0, 999))),
    "handbook": HANDBOOK,
    "ecommerce": load_schema("ecommerce"),
    "phishing": load_schema("phishing"),
    "claims": CLAIMS,
    "no amount": NO_AMOUNT,
    "yen": IN_YEN,
}
DECODERS = {name: TransactionDecoder(schema) for name, schema in SCHEMAS.items()}

Decoded = tuple[Transactions, list[int], list[Rejected]]


def same(left: Decoded, right: Decoded) -> bool:
    """Compare what was decoded to the bit."""
    return left[1:] == right[1:] and all(
        bits(getattr(left[0], field.name)) == bits(getattr(right[0], field.name))
        for field in fields(Transactions)
    )


def bits(column: Any) -> object:
    if isinstance(column, np.ndarray):
        return column.dtype, column.shape, column.tobytes()
    return type(column), column


# What may stand in a field of any kind, ordinary for some.
TIMES = st.integers(MONDAY_MS, MONDAY_MS + 10**9)
TEXT_TIMES = st.sampled_from(
    ["2021-01-04T00:00:00Z", "2021-01-04T01:00:00.052999+01:00", "2021-01-04 00:00:00.1Z",
     "2021-02-30T00:00:00Z", "2021-01-04T00:00Z", "1999-12-31T23:59:59Z", "2021-01-04T00:00:00"]
)  # fmt: skip
TEXTS = st.sampled_from(
    ["c1", "51", "00", "t-0-17", "a" * 64, "a" * 65, "", "c\n", "ä", "\U0001f600", CARD_NUMBER,
     f"x_{CARD_NUMBER}", "4111-1111-1111-1111", "1522540880052", "4222222222223", "EUR", "EUX",
     "3f2b8c1e4111111111111111deadbeef", "a:b", 'a"b', "a\\b", "9.5", "9.50", "0", "07.5", "1e3",
     "9.505", "99999999.99", "10000000.00", "9999999.00000001", "12345678.5", "١"]
)  # fmt: skip
NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**20), 10**20)
    | st.decimals(0, 10**7, places=2).map(float)
    | st.sampled_from([0.1 + 0.2, -0.0, 4e15, float(CARD_NUMBER), 1e12, 3.5e38, 10**400])
)
ANYTHING = (
    TIMES | TEXT_TIMES | TEXTS | NUMBERS | st.none() | st.booleans()
    | st.sampled_from([[], {}, {"a": 1}, [[[[[[[[[1]]]]]]]]], {"b": {"c": [1, {"d": ":"}]}}])
)  # fmt: skip
EXTRA = st.sampled_from(
    [b"", b"", b"", b',"x":1', b',"x":1,"x":2', b',"x":"a:b"', b',"x":"\\u003a"', b',"x":"\xff"',
     b',"y":{"a":1,"a":2}', b',"z":' + b"[" * 9 + b"]" * 9, b" ", b",", b',"amount":"9.50"',
     b',"x":"' + b"a" * RECORD_BYTES_MAX + b'"']
)  # fmt: skip
RAW = st.none() | st.binary(max_size=60) | st.sampled_from([b"", b"{}", b"[]", b"null", GOOD])


def ordinary(schema: Schema, number: int) -> dict[str, object]:
    """Give the fields of an ordinary event."""
    event: dict[str, object] = {entity.field: f"k{number % 7}" for entity in schema.entities}
    event |= {category.field: f"v{number % 3}" for category in schema.categories}
    event |= {item.field: number / 8 for item in schema.numbers}
    event |= {schema.event_id: f"t{number}", schema.event_time: MONDAY_MS + number}
    event |= {schema.amount: f"{number}.50"} if schema.amount and schema.minor_digits else {}
    event |= {schema.amount: number} if schema.amount and not schema.minor_digits else {}
    return event | ({schema.currency: "EUR"} if schema.currency else {})


@st.composite
def records(draw: st.DrawFn, schema: Schema) -> bytes | None:
    """Give an ordinary record, mostly, or one that is odd in some way."""
    event = ordinary(schema, draw(st.integers(0, 500)))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(RAW)
    names = [*schema.event_fields, *schema.incumbent_fields]
    names += [schema.response] * 2 if schema.response else []
    for _ in range(max(0, kind - 6)):
        event[draw(st.sampled_from(names))] = draw(ANYTHING)
    if kind == 9:
        event.pop(draw(st.sampled_from(names)), None)
    escapes = draw(st.booleans())
    value = json.dumps(event, ensure_ascii=escapes).encode(errors="surrogatepass")
    return value[:-1] + draw(EXTRA) + b"}" if kind > 5 else value


@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=100)
@given(data=st.data())
def test_a_batch_is_decoded_as_its_records_are_one_by_one(name: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(records(SCHEMAS[name]), max_size=20))

    assert same(DECODERS[name].decode(values), DECODERS[name].decode_each(values))


DEEP = [[[[[[[[[1]]]]]]]]]


@pytest.mark.parametrize(
    ("name", "field", "value", "reason"),
    [
        ("ecommerce", "total", int(CARD_NUMBER), "card_number"),
        ("ecommerce", "zip", CARD_NUMBER, "card_number"),
        ("ecommerce", "zip", "", "schema"),
        ("card", "card_id", f"x-{CARD_NUMBER}", "card_number"),
        ("card", "terminal_id", "m\n", "schema"),
        ("card", "currency", "EUX", "schema"),
        ("card", "amount", "9.505", "schema"),
        ("card", "event_time", 1_609_718_400, "schema"),
        ("card", "incumbent_score", DEEP, "malformed"),
        ("card", "incumbent_action", {"a": {"b": {"c": DEEP}}}, "malformed"),
        ("card", "x", DEEP, "malformed"),
        ("card", CARD.response or "", "5/1", "schema"),
        ("phishing", "https", int(CARD_NUMBER), "card_number"),
    ],
)
def test_an_odd_event_among_ordinary_ones_is_refused_alone(
    name: str, field: str, value: object, reason: str
) -> None:
    events = [ordinary(SCHEMAS[name], number) for number in range(20)]
    events[7][field] = value

    _, rows, rejected = DECODERS[name].decode([json.dumps(event).encode() for event in events])

    assert [(item.row, item.problem.reason) for item in rejected] == [(7, reason)]
    assert rows == [row for row in range(20) if row != 7]


@pytest.mark.parametrize("beside", [0, 50])
def test_every_case_of_odd_input_is_decoded_as_by_itself(beside: int) -> None:
    decoder = DECODERS["card"]
    good = [json.dumps(ordinary(CARD, number)).encode() for number in range(beside)]
    for case in CASES:
        values = [*good, case.value, *good]
        assert same(decoder.decode(values), decoder.decode_each(values)), case.name
    values = [case.value for case in CASES]
    assert same(decoder.decode(values), decoder.decode_each(values))


@pytest.mark.parametrize("size", [7, 100, 1_000])
def test_mutated_messages_are_decoded_as_by_themselves(size: int) -> None:
    decoder = DECODERS["card"]
    values = [message.value for message in Mutator(11).messages(10_000)]

    for start in range(0, len(values), size):
        batch = values[start : start + size]
        assert same(decoder.decode(batch), decoder.decode_each(batch)), start


def in_text(value: bytes) -> bytes:
    event = msgspec.json.decode(value)
    return msgspec.json.encode(event | {"event_time": "2021-01-04T12:30:00.052Z"})


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value,
        in_text,
        lambda value: value.replace(b'"t-', b'"3f2b8c1e-9d04-4a7b-8c11-'),
        lambda value: value[:-1] + b',"channel":"web"}',
        lambda value: value.replace(b'"amount":"', b'"amount":').replace(b'","cur', b',"cur'),
    ],
    ids=["as they are", "time as text", "long ids", "a field more", "amounts as numbers"],
)
def test_ordinary_events_are_none_of_them_set_aside(change: Any) -> None:
    day = next(simulate(SimulatorOptions(customers=200, terminals=100)))
    values = [change(value) for value in TransactionEncoder(CARD).encode(day)]

    found = DECODERS["card"]._ordinary.decode(values)

    assert len(values) > 100
    assert (found.rows, found.aside) == (list(range(len(values))), [])


def both(amounts: Sequence[str | float], digits: int) -> list[tuple[int, int | None]]:
    """Give the amounts as the columns have them, and as they are; those set aside are left out."""
    found, odd = minor_columns(amounts, digits)
    exact = [minor_units(amount, digits, place="$") for amount in amounts]
    return [
        (int(minor), exact[place] if isinstance(exact[place], int) else None)
        for place, minor in enumerate(found)
        if place not in odd
    ]


@given(
    st.lists(
        st.from_regex(r"[0-9]{1,10}(\.[0-9]{1,8})?", fullmatch=True)
        | st.floats(0, 2e9, allow_nan=False)
        | st.integers(0, AMOUNT_MINOR_MAX + 1),
        min_size=1,
    ),
    st.integers(0, 4),
)
@example(["999999999.00000001"], 0)
def test_amounts_of_columns_are_exact(amounts: list[str | float], digits: int) -> None:
    assert all(minor == exact for minor, exact in both(amounts, digits))


@given(st.lists(st.integers(0, AMOUNT_MINOR_MAX), min_size=1), st.integers(0, 4))
def test_every_amount_as_a_number_is_ordinary(amounts: list[int], digits: int) -> None:
    unit = 10**digits

    assert both([amount / unit for amount in amounts], digits) == [(a, a) for a in amounts]
