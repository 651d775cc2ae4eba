"""A dead letter keeps the record as it came, and says the same however often it is made."""

import pytest

from consumers.dead_letters import (
    DeadLetter,
    EventError,
    Headers,
    InputRecord,
    app_version,
    dead_letter,
    internal_error,
    traceback_of,
)
from consumers.lane import own_code
from pipeline.commit import OutboxRecord
from pipeline.errors import REASON_HELP, REASONS, CommitError
from pipeline.events import Problem
from tests.strategies import CARD

PROBLEM = Problem("schema", "$.amount", "an amount", "nothing")
CARD_NUMBER = "4111111111111111"


def record(**changes: object) -> InputRecord:
    fields: dict[str, object] = {
        "topic": "transactions",
        "partition": 3,
        "offset": 17,
        "key": b"c1",
        "value": b'{"a":1}',
        "timestamp_ms": 1_700_000_000_123,
        "headers": (("trace", b"t-9"), ("trace", b"again"), ("empty", None)),
    }
    return InputRecord(**(fields | changes))  # type: ignore[arg-type]


def letter(given: InputRecord, problem: Problem = PROBLEM) -> OutboxRecord:
    return dead_letter(given, problem, stage="decode", schema=CARD)


def read_back(given: OutboxRecord) -> DeadLetter:
    found = DeadLetter.of(3, 5, given.key, given.value, given.headers)
    assert found is not None
    return found


def test_bytes_and_headers_are_kept_and_ours_stand_behind_them() -> None:
    made = letter(record())

    assert (made.topic, made.partition) == ("dead-letters", 3)
    assert (made.key, made.value) == (b"c1", b'{"a":1}')
    assert list(made.headers[:3]) == list(record().headers)
    assert dict(made.headers[3:]) == {
        "fraud.errors.topic": b"transactions",
        "fraud.errors.partition": b"3",
        "fraud.errors.offset": b"17",
        "fraud.errors.stage": b"decode",
        "fraud.errors.reason": b"schema",
        "fraud.errors.place": b"$.amount",
        "fraud.errors.message": b"schema at $.amount: expected an amount, got nothing",
        "fraud.errors.schema_version": f"card:{CARD.version}".encode(),
        "fraud.errors.app_version": app_version().encode(),
        "fraud.errors.ts": b"1700000000123",
    }


def test_a_dead_letter_made_twice_is_the_same() -> None:
    assert letter(record()) == letter(record())


@pytest.mark.parametrize(
    "changes",
    [
        {"key": CARD_NUMBER.encode()},
        {"value": f'{{"pan":"{CARD_NUMBER}"}}'.encode()},
        {"headers": (("pan", CARD_NUMBER.encode()),)},
    ],
    ids=["key", "value", "header"],
)
def test_card_numbers_are_masked_wherever_they_stand_and_it_says_so(
    changes: dict[str, object],
) -> None:
    made = letter(record(**changes))

    assert CARD_NUMBER not in repr(made)
    assert read_back(made).is_masked
    assert not read_back(letter(record())).is_masked


@pytest.mark.parametrize("text", ["x" * 5_000, "x" + "\u00e9" * 5_000])
def test_what_is_said_is_cut_at_a_kilobyte_between_two_letters(text: str) -> None:
    made = letter(record(), Problem("schema", text, "a", "b"))

    [said] = [value for name, value in made.headers if name == "fraud.errors.message"]
    assert said is not None and 1_020 <= len(said) <= 1_024
    said.decode()


def test_a_record_without_key_value_time_and_headers_has_its_letter() -> None:
    made = letter(record(key=None, value=None, timestamp_ms=None, headers=()))

    assert (made.key, made.value) == (None, None)
    assert "fraud.errors.ts" not in dict(made.headers)


def test_a_letter_is_read_back_whatever_the_producer_called_its_headers() -> None:
    forged = (("fraud.errors.topic", b"elsewhere"), ("fraud.errors.reason", b"none"))
    found = read_back(letter(record(headers=forged)))

    assert (found.place, found.source) == ("3:5", "transactions:3:17")
    assert (found.said["reason"], tuple(found.headers)) == ("schema", forged)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("fraud.errors.topic", b"transactions")],
        [
            ("fraud.errors.topic", b"t"),
            ("fraud.errors.partition", b"x"),
            ("fraud.errors.offset", b"1"),
            ("fraud.errors.reason", b"schema"),
        ],
    ],
)
def test_what_is_no_dead_letter_of_ours_is_not_taken_for_one(headers: Headers) -> None:
    assert DeadLetter.of(0, 0, None, b"", headers) is None


def test_every_reason_says_what_it_means_and_how_it_is_mended() -> None:
    assert set(REASON_HELP) == set(REASONS)
    assert all(item.meaning and item.mend for item in REASON_HELP.values())


def test_an_error_of_our_own_names_its_place_and_no_value() -> None:
    with pytest.raises(EventError) as caught, own_code():
        int(CARD_NUMBER + "x")

    problem = internal_error(caught.value.cause)
    assert str(problem).startswith("internal_error at $: expected no error of ours, got ValueError")
    assert "test_dead_letters.py:" in str(problem)
    assert CARD_NUMBER not in str(problem) + traceback_of(caught.value.cause)


@pytest.mark.parametrize("error", [CommitError("the store"), MemoryError()])
def test_what_is_not_the_events_fault_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), own_code():
        raise error
