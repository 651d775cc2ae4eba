"""Any bytes are an event or a rejection that says where and why, never an exception."""

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import REASONS
from pipeline.events import (
    AMOUNT_MINOR_MAX,
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    RECORD_BYTES_MAX,
    SOURCES,
    Label,
    LabelDecoder,
    Outcome,
    OutcomeDecoder,
    Problem,
    TransactionDecoder,
    encode_label,
    is_card_number,
    mask_card_numbers,
    minor_units,
)
from tests.strategies import (
    CARD,
    HANDBOOK,
    LABELS,
    MONDAY_MS,
    event,
    event_bytes,
    label_bytes,
    outcome_bytes,
)

DECODER = TransactionDecoder(CARD)
CARD_NUMBER = "4111111111111111"
GOOD = event_bytes()
AMOUNT = b'"9.50"'

# Stands for what must not be found in the message of a rejection.
SECRET = "s3cret"

MALFORMED: dict[str, bytes | None] = {
    "null value": None,
    "nothing": b"",
    "blanks": b"   ",
    "half an object": b"{",
    "no quotes": b"{transaction_id: 1}",
    "single quotes": GOOD.replace(b'"', b"'"),
    "cut off in a text": GOOD[:-3],
    "cut off before the end": GOOD[:-1],
    "something after it": GOOD + b" x",
    "two in one record": GOOD + GOOD,
    "comma before the end": GOOD[:-1] + b",}",
    "comment": b"/* */" + GOOD,
    "NaN": GOOD.replace(AMOUNT, b"NaN"),
    "Infinity": GOOD.replace(AMOUNT, b"Infinity"),
    "minus Infinity": GOOD.replace(AMOUNT, b"-Infinity"),
    "NaN in an unknown field": GOOD[:-1] + b',"x":NaN}',
    "leading zero": GOOD.replace(AMOUNT, b"09.50"),
    "leading plus": GOOD.replace(AMOUNT, b"+9.50"),
    "hexadecimal": GOOD.replace(AMOUNT, b"0x10"),
    "byte that is no UTF-8": GOOD.replace(b"c1", b"\xff"),
    "cut UTF-8": GOOD.replace(b"c1", b"\xc3"),
    "overlong UTF-8": GOOD.replace(b"c1", b"\xc0\xaf"),
    "lone surrogate": GOOD.replace(b"c1", rb"\ud800"),
    "raw control character": GOOD.replace(b"c1", b"c\n1"),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "arrays without end": GOOD[:-1] + b',"x":' + b"[" * 16_000,
    "objects without end": b'{"a":' * 3_000,
    "arrays that end": GOOD[:-1] + b',"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "compressed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
}

NO_OBJECT = {
    "array": b"[]",
    "array of objects": b"[" + GOOD + b"]",
    "null": b"null",
    "number": b"17",
    "text": b'"text"',
    "true": b"true",
}


def without(*fields: str) -> list[tuple[str, dict[str, object]]]:
    """Give the change that leaves a field out, for each."""
    return [(field, {field: ...}) for field in fields]


WRONG_FIELDS: list[tuple[str, dict[str, object]]] = [
    *without("transaction_id", "event_time", "card_id", "terminal_id", "amount"),
    ("transaction_id", {"transaction_id": None}),
    ("transaction_id", {"transaction_id": 17}),
    ("transaction_id", {"transaction_id": ""}),
    ("transaction_id", {"transaction_id": SECRET * 11}),
    ("transaction_id", {"transaction_id": f"{SECRET} "}),
    ("transaction_id", {"transaction_id": [SECRET]}),
    ("transaction_id", {"transaction_id": {SECRET: SECRET}}),
    ("transaction_id", {"transaction_id": True}),
    ("card_id", {"card_id": f"{SECRET}\n"}),
    ("card_id", {"card_id": f"\n{SECRET}"}),
    ("card_id", {"card_id": f"{SECRET}\0"}),
    ("card_id", {"card_id": f"{SECRET}/1"}),
    ("card_id", {"card_id": f"{SECRET}:{{x}}"}),
    ("card_id", {"card_id": f"{SECRET}é"}),
    ("card_id", {"card_id": "١٢٣"}),
    ("terminal_id", {"terminal_id": f"{SECRET}.1"}),
    ("terminal_id", {"terminal_id": 1.5}),
    ("amount", {"amount": None}),
    ("amount", {"amount": True}),
    ("amount", {"amount": []}),
    ("amount", {"amount": {"value": SECRET}}),
    ("amount", {"amount": ""}),
    ("amount", {"amount": SECRET}),
    ("amount", {"amount": "-1.00"}),
    ("amount", {"amount": -1}),
    ("amount", {"amount": -0.01}),
    ("amount", {"amount": "9.505"}),
    ("amount", {"amount": 9.505}),
    ("amount", {"amount": 0.1 + 0.2}),
    ("amount", {"amount": 5e-324}),
    ("amount", {"amount": "0.000000001"}),
    ("amount", {"amount": "10000000.01"}),
    ("amount", {"amount": 10_000_000.01}),
    ("amount", {"amount": 10_000_001}),
    ("amount", {"amount": 10**30}),
    ("amount", {"amount": 10**4000}),
    ("amount", {"amount": 1e300}),
    ("amount", {"amount": "1e3"}),
    ("amount", {"amount": "+9.50"}),
    ("amount", {"amount": " 9.50"}),
    ("amount", {"amount": "9.50\n"}),
    ("amount", {"amount": "1_000"}),
    ("amount", {"amount": "1,000.00"}),
    ("amount", {"amount": "9,50"}),
    ("amount", {"amount": ".50"}),
    ("amount", {"amount": "9."}),
    ("amount", {"amount": "٩.٥٠"}),
    ("amount", {"amount": "\uff19.\uff15\uff10"}),
    ("amount", {"amount": "NaN"}),
    ("amount", {"amount": "Infinity"}),
    ("amount", {"amount": "0x10"}),
    ("event_time", {"event_time": None}),
    ("event_time", {"event_time": True}),
    ("event_time", {"event_time": 1_609_718_400}),
    ("event_time", {"event_time": 1_609_718_400_000_000}),
    ("event_time", {"event_time": 1_609_718_400_000.0}),
    ("event_time", {"event_time": "1609718400000"}),
    ("event_time", {"event_time": 0}),
    ("event_time", {"event_time": -MONDAY_MS}),
    ("event_time", {"event_time": 10**4000}),
    ("event_time", {"event_time": EVENT_TIME_MS_MIN - 1}),
    ("event_time", {"event_time": EVENT_TIME_MS_MAX + 1}),
    ("event_time", {"event_time": "2021-01-04T00:00:00"}),
    ("event_time", {"event_time": "2021-01-04"}),
    ("event_time", {"event_time": "2021-02-30T00:00:00Z"}),
    ("event_time", {"event_time": "2021-01-04T24:00:00Z"}),
    ("event_time", {"event_time": "2021-01-04T00:00:00+25:00"}),
    ("event_time", {"event_time": "04.01.2021 00:00:00"}),
    ("event_time", {"event_time": "1999-12-31T23:59:59Z"}),
    ("event_time", {"event_time": "2101-01-01T00:00:00Z"}),
    ("event_time", {"event_time": "0001-01-01T00:00:00+23:59"}),
    ("event_time", {"event_time": "9999-12-31T23:59:59-23:59"}),
    ("currency", {"currency": "eur"}),
    ("currency", {"currency": "EURO"}),
    ("currency", {"currency": "EU"}),
    ("currency", {"currency": "EUR\n"}),
    ("currency", {"currency": "€UR"}),
    ("currency", {"currency": 978}),
    ("currency", {"currency": None}),
]


def problem_of(value: bytes | None) -> Problem:
    """Decode one record that is rejected, between two good ones that must not notice."""
    before, after = event_bytes(transaction_id="before"), event_bytes(transaction_id="after")

    batch, rows, rejected = DECODER.decode([before, value, after])

    assert batch.transaction_id == ["before", "after"]
    assert rows == [0, 2]
    assert [item.row for item in rejected] == [1]
    return rejected[0].problem


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_json_is_malformed(value: bytes | None) -> None:
    problem = problem_of(value)

    assert (problem.reason, problem.place) == ("malformed", "$")


@pytest.mark.parametrize("value", NO_OBJECT.values(), ids=NO_OBJECT.keys())
def test_json_that_is_no_object_does_not_fit_the_schema(value: bytes) -> None:
    problem = problem_of(value)

    assert (problem.reason, problem.place, problem.expected) == ("schema", "$", "object")


def test_a_number_too_large_for_a_float_is_named_by_its_field() -> None:
    problem = problem_of(GOOD.replace(AMOUNT, b"1e400"))

    assert (problem.reason, problem.place) == ("schema", "$.amount")


WRONG_IDS = [f"{number} {field}" for number, (field, _) in enumerate(WRONG_FIELDS)]


@pytest.mark.parametrize(("field", "change"), WRONG_FIELDS, ids=WRONG_IDS)
def test_a_wrong_field_is_named(field: str, change: dict[str, object]) -> None:
    problem = problem_of(event_bytes(**change))

    assert (problem.reason, problem.place) == ("schema", f"$.{field}")


@pytest.mark.parametrize(("field", "change"), WRONG_FIELDS, ids=WRONG_IDS)
def test_what_is_said_never_holds_the_value(field: str, change: dict[str, object]) -> None:
    said = str(problem_of(event_bytes(**change)))

    assert SECRET not in said
    # A shorter text may well stand in the sentence that says what was expected.
    assert len(str(change[field])) < 5 or change[field] is ... or str(change[field]) not in said


@pytest.mark.parametrize("field", ["transaction_id", "card_id", "terminal_id"])
@pytest.mark.parametrize(
    "number", [CARD_NUMBER, "378282246310005", "5500000000000004", "6011000000000000001"]
)
def test_a_card_number_as_an_id_is_refused_by_that_name(field: str, number: str) -> None:
    problem = problem_of(event_bytes(**{field: number}))

    assert (problem.reason, problem.place) == ("card_number", f"$.{field}")
    assert number not in str(problem)


def test_a_record_is_too_large_from_the_first_byte_over_the_limit() -> None:
    at_limit = GOOD + b" " * (RECORD_BYTES_MAX - len(GOOD))

    assert len(DECODER.decode([at_limit])[0]) == 1
    assert problem_of(at_limit + b" ").reason == "too_large"


@pytest.mark.parametrize(
    ("given_amount", "minor"),
    [
        ("0", 0),
        ("0.00", 0),
        ("9.5", 950),
        ("9.50", 950),
        ("9.50000000", 950),
        ("0000000009.50", 950),
        ("10000000.00", AMOUNT_MINOR_MAX),
        (9.5, 950),
        (0.1, 10),
        (1.1, 110),
        (9_999_999.99, 999_999_999),
        (1e7, AMOUNT_MINOR_MAX),
        (1e-2, 1),
        (0, 0),
        (-0.0, 0),
        (17, 1700),
        (10_000_000, AMOUNT_MINOR_MAX),
    ],
)
def test_an_amount_is_kept_exactly_in_minor_units(given_amount: object, minor: int) -> None:
    batch, _, rejected = DECODER.decode([event_bytes(amount=given_amount)])

    assert not rejected
    assert batch.amount_minor.tolist() == [minor]


@pytest.mark.parametrize(
    ("given_time", "milliseconds"),
    [
        (MONDAY_MS, MONDAY_MS),
        (EVENT_TIME_MS_MIN, EVENT_TIME_MS_MIN),
        (EVENT_TIME_MS_MAX, EVENT_TIME_MS_MAX),
        ("2021-01-04T00:00:00Z", MONDAY_MS),
        ("2021-01-04T00:00:00+00:00", MONDAY_MS),
        ("2021-01-04T01:00:00+01:00", MONDAY_MS),
        ("2021-01-03T18:30:00-05:30", MONDAY_MS),
        ("2021-01-04T00:00:00.001Z", MONDAY_MS + 1),
        ("2021-01-04T00:00:00.000999Z", MONDAY_MS),
        ("2000-01-01T00:00:00Z", EVENT_TIME_MS_MIN),
        ("1999-12-31T23:00:00-01:00", EVENT_TIME_MS_MIN),
        ("2100-01-01T00:00:00Z", EVENT_TIME_MS_MAX),
    ],
)
def test_a_time_is_kept_in_milliseconds(given_time: object, milliseconds: int) -> None:
    batch, _, rejected = DECODER.decode([event_bytes(event_time=given_time)])

    assert not rejected
    assert batch.event_time_ms.tolist() == [milliseconds]


@pytest.mark.parametrize("name", ["a", "A" * 64, "_", "-", "0", "4111111111111112", "c-1_Z"])
def test_an_id_may_have_letters_digits_hyphen_and_underscore(name: str) -> None:
    batch, _, rejected = DECODER.decode([event_bytes(transaction_id=name, card_id=name)])

    assert not rejected
    assert (batch.transaction_id, batch.keys[0]) == ([name], [name])


def test_unknown_fields_are_left_out() -> None:
    added = event_bytes(note=CARD_NUMBER, device={"os": ["a"]}, amount_2=None)

    batch, _, rejected = DECODER.decode([added])

    assert not rejected
    assert batch.transaction_id == ["t1"]


def test_the_currency_may_be_missing_where_the_schema_has_a_default() -> None:
    batch, _, _ = DECODER.decode([event_bytes(currency=...), event_bytes(currency="CHF")])

    assert batch.currency == ["EUR", "CHF"]


def test_keys_are_columns_in_the_order_of_the_schema() -> None:
    batch, _, _ = DECODER.decode(
        [event_bytes(card_id="c1", terminal_id="m1"), event_bytes(card_id="c2", terminal_id="m2")]
    )

    assert batch.keys == (["c1", "c2"], ["m1", "m2"])


def test_a_schema_without_a_currency_field_has_its_default_alone() -> None:
    record = {"TRANSACTION_ID": "1", "TX_DATETIME": MONDAY_MS, "CUSTOMER_ID": "596"}
    record |= {"TERMINAL_ID": "3156", "TX_AMOUNT": 57.16, "currency": 978}

    batch, _, rejected = TransactionDecoder(HANDBOOK).decode([json.dumps(record).encode()])

    assert not rejected
    assert (batch.currency, batch.amount_minor.tolist()) == (["EUR"], [5716])


def test_places_have_the_names_of_the_schema() -> None:
    [rejected] = TransactionDecoder(HANDBOOK).decode([b'{"TRANSACTION_ID":"1"}'])[2]

    assert rejected.problem.place == "$.TX_DATETIME"


def test_nothing_accepted_gives_empty_columns() -> None:
    batch, rows, rejected = DECODER.decode([b"{", None])

    assert (len(batch), len(batch.keys), rows, len(rejected)) == (0, 2, [], 2)
    assert batch.event_time_ms.dtype == batch.amount_minor.dtype == "int64"


def mutations() -> st.SearchStrategy[bytes]:
    """Good records with a part replaced by anything."""
    return st.builds(
        lambda start, length, part: GOOD[:start] + part + GOOD[start + length :],
        st.integers(0, len(GOOD)),
        st.integers(0, 20),
        st.binary(max_size=12),
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.sampled_from(list(event())), JSON_VALUES).map(
    lambda changes: event_bytes(**changes)
)


@settings(max_examples=300)
@given(st.lists(st.none() | st.binary(max_size=60) | mutations() | RECORDS, max_size=6))
def test_any_bytes_are_accepted_or_rejected_once_and_never_raise(
    values: list[bytes | None],
) -> None:
    batch, rows, rejected = DECODER.decode(values)

    assert sorted([*rows, *(item.row for item in rejected)]) == list(range(len(values)))
    assert len(batch) == len(rows)
    assert all(item.problem.reason in REASONS for item in rejected)


@settings(max_examples=200)
@given(st.none() | st.binary(max_size=80) | mutations() | RECORDS)
def test_any_bytes_are_a_label_an_outcome_or_a_problem(value: bytes | None) -> None:
    assert isinstance(LabelDecoder(CARD).decode_one(value), Label | Problem)
    assert isinstance(OutcomeDecoder(CARD).decode_one(value), Outcome | Problem)


@given(st.integers(0, AMOUNT_MINOR_MAX), st.integers(0, 4))
def test_every_amount_comes_back_as_text_and_as_float(minor: int, digits: int) -> None:
    written = Decimal(minor).scaleb(-digits)

    assert minor_units(f"{written:f}", digits, place="$") == minor
    assert minor_units(float(written), digits, place="$") == minor


@pytest.mark.parametrize(("digits", "minor"), [(0, 9), (1, 90), (3, 9000), (4, 90_000)])
def test_minor_units_follow_the_currency(digits: int, minor: int) -> None:
    assert minor_units("9", digits, place="$") == minor


@given(LABELS)
def test_a_label_that_is_encoded_is_decoded_equal(label: Label) -> None:
    given_back = LabelDecoder(CARD).decode_one(encode_label(label, CARD))

    assert given_back == label


def test_a_label_is_written_in_the_field_names_of_its_schema() -> None:
    label = Label("l1", "1", "596", True, "simulated", MONDAY_MS)

    written = json.loads(encode_label(label, HANDBOOK))

    assert (written["TRANSACTION_ID"], written["CUSTOMER_ID"]) == ("1", "596")
    assert "by" not in written


WRONG_LABELS: list[tuple[str, dict[str, object]]] = [
    *without("label_id", "transaction_id", "card_id", "verdict", "source", "label_time"),
    ("label_id", {"label_id": ""}),
    ("label_id", {"label_id": f"{SECRET}\n"}),
    ("card_id", {"card_id": 17}),
    ("verdict", {"verdict": SECRET}),
    ("verdict", {"verdict": "FRAUD"}),
    ("verdict", {"verdict": f"{SECRET} - at `{SECRET}`"}),
    ("verdict", {"verdict": True}),
    ("verdict", {"verdict": 1}),
    ("source", {"source": SECRET}),
    ("source", {"source": None}),
    ("label_time", {"label_time": 1_609_718_400}),
    ("label_time", {"label_time": "2101-01-01T00:00:00Z"}),
    ("by", {"by": 17}),
    ("supersedes", {"supersedes": ""}),
    ("supersedes", {"supersedes": f"{SECRET} "}),
]


@pytest.mark.parametrize(("field", "change"), WRONG_LABELS)
def test_a_wrong_field_of_a_label_is_named_without_its_value(
    field: str, change: dict[str, object]
) -> None:
    problem = LabelDecoder(CARD).decode_one(label_bytes(**change))

    assert isinstance(problem, Problem)
    assert (problem.reason, problem.place) == ("schema", f"$.{field}")
    assert SECRET not in str(problem)


@pytest.mark.parametrize("field", ["label_id", "transaction_id", "card_id"])
def test_a_card_number_as_an_id_of_a_label_is_refused(field: str) -> None:
    problem = LabelDecoder(CARD).decode_one(label_bytes(**{field: CARD_NUMBER}))

    assert isinstance(problem, Problem)
    assert (problem.reason, problem.place) == ("card_number", f"$.{field}")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_labels_is_known(source: str) -> None:
    label = LabelDecoder(CARD).decode_one(label_bytes(source=source, verdict="genuine"))

    assert isinstance(label, Label)
    assert (label.source, label.is_fraud) == (source, False)


@pytest.mark.parametrize("value", [*MALFORMED.values(), b" " * (RECORD_BYTES_MAX + 1)])
def test_what_is_no_json_is_no_label_and_no_outcome(value: bytes | None) -> None:
    for decoder in (LabelDecoder(CARD), OutcomeDecoder(CARD)):
        problem = decoder.decode_one(value)

        assert isinstance(problem, Problem)
        assert problem.place.startswith("$")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("outcome", {"outcome": SECRET}),
        ("outcome", {"outcome": ...}),
        ("card_id", {"card_id": f"{SECRET} "}),
        ("transaction_id", {"transaction_id": None}),
        ("outcome_time", {"outcome_time": "2021-01-04"}),
    ],
)
def test_a_wrong_field_of_an_outcome_is_named_without_its_value(
    field: str, change: dict[str, object]
) -> None:
    problem = OutcomeDecoder(CARD).decode_one(outcome_bytes(**change))

    assert isinstance(problem, Problem)
    assert (problem.reason, problem.place) == ("schema", f"$.{field}")
    assert SECRET not in str(problem)


def test_an_outcome_is_decoded() -> None:
    outcome = OutcomeDecoder(CARD).decode_one(outcome_bytes(outcome_time="2021-01-04T00:00:00Z"))

    assert outcome == Outcome("t1", "c1", "settled", MONDAY_MS)


def test_a_card_number_as_an_id_of_an_outcome_is_refused() -> None:
    problem = OutcomeDecoder(CARD).decode_one(outcome_bytes(card_id=CARD_NUMBER))

    assert isinstance(problem, Problem)
    assert problem.reason == "card_number"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CARD_NUMBER, True),
        ("4222222222222", True),  # 13 digits
        ("378282246310005", True),
        ("6304000000000000", True),
        ("4111111111111112", False),  # Luhn's check fails
        ("411111111111", False),  # 12 digits
        ("41111111111111111111", False),  # 20 digits
        ("1609718400000", False),  # a time in milliseconds
        ("0000000000000000", False),
        ("4111-1111-1111-1111", False),
        ("٤" + CARD_NUMBER[1:], False),
        ("", False),
    ],
)
def test_card_numbers_are_told_from_other_numbers(text: str, expected: bool) -> None:
    assert is_card_number(text) is expected


@pytest.mark.parametrize(
    ("given_bytes", "masked"),
    [
        (b"4111111111111111", b"****************"),
        (b"4111-1111-1111-1111", b"****-****-****-****"),
        (b"3782 822463 10005", b"**** ****** *****"),
        (b'{"a":"4111111111111111","b":"x"}', b'{"a":"****************","b":"x"}'),
        (b"4111111111111111 5500000000000004", b"**************** ****************"),
        (b"2 4111111111111111", b"2 ****************"),
        (b"4111111111111111 20", b"**************** 20"),
        (b"2021-01-04 4111111111111111", b"2021-01-04 ****************"),
        (b"\xff4111111111111111\xff", b"\xff****************\xff"),
        (b"4111111111111112", b"4111111111111112"),
        (b"94111111111111111", b"94111111111111111"),
        (b"1609718400000", b"1609718400000"),
        (b"", b""),
    ],
)
def test_digits_of_card_numbers_are_masked_and_nothing_else(
    given_bytes: bytes, masked: bytes
) -> None:
    assert mask_card_numbers(given_bytes) == masked


@given(st.binary(max_size=80))
def test_masking_keeps_the_length_and_changes_digits_only(value: bytes) -> None:
    masked = mask_card_numbers(value)

    assert len(masked) == len(value)
    assert all(
        after == before or (before in b"0123456789" and after == ord("*"))
        for before, after in zip(value, masked, strict=True)
    )


@given(st.lists(st.text("0123456789", max_size=20), max_size=6), st.integers(0, 6))
def test_a_card_number_among_other_numbers_is_always_masked(others: list[str], place: int) -> None:
    words = [*others[:place], CARD_NUMBER, *others[place:]]

    assert CARD_NUMBER.encode() not in mask_card_numbers(" ".join(words).encode())
