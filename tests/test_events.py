"""Any bytes are an event or a rejection that says where and why, never an exception."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.card_numbers import is_card_number, mask_card_numbers
from pipeline.events import (
    AMOUNT_MINOR_MAX,
    Label,
    LabelDecoder,
    Outcome,
    OutcomeDecoder,
    Problem,
    minor_units,
)
from pipeline.feedback_encoding import encode_label
from pipeline.label_words import SOURCES
from pipeline.transactions import TransactionDecoder
from tests.armour.cases import CARD_NUMBER, SECRET
from tests.strategies import (
    CARD,
    HANDBOOK,
    LABELS,
    MONDAY_MS,
    event_bytes,
    label_bytes,
    outcome_bytes,
)

DECODER = TransactionDecoder(CARD)


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


def without(*fields: str) -> list[tuple[str, dict[str, object]]]:
    """Give the change that leaves a field out, for each."""
    return [(field, {field: ...}) for field in fields]


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
