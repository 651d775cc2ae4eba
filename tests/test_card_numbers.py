"""Card numbers are found, refused and masked wherever they stand; other numbers are left alone."""

import io
import json
import logging
import random
import subprocess
import sys
import uuid
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from consumers.dead_letters import InputRecord, dead_letter
from consumers.review_commands import label
from pipeline.card_numbers import (
    find_card_numbers,
    holds_card_number,
    is_card_number,
    mask_card_numbers,
    mask_card_numbers_in_text,
)
from pipeline.errors import DataError
from pipeline.events import LabelDecoder, Problem
from pipeline.log_masking import MaskingFormatter
from pipeline.schema import parse_schema
from pipeline.settings import Settings
from pipeline.transactions import TransactionDecoder
from producers.datasets import read_events
from tests.card_numbers import CARDS, SCHEMA_TEXT, grouped
from tests.strategies import CARD, event_bytes, label_bytes

SCHEMA = parse_schema(
    SCHEMA_TEXT.replace("tokenise = true", "")
    + '[[category]]\nname = "channel"\nfield = "channel"\n'
    + '[[number]]\nname = "items"\nfield = "items"\n',
    place="test",
)
NUMBER = "4111111111111111"
GROUPED = "4111-1111-1111-1111"

cards = st.sampled_from(CARDS)
around = st.text(st.characters(exclude_categories=["Nd"]), max_size=8)


@given(cards, around, around)
def test_a_number_is_found_and_masked_among_any_text(card: str, before: str, after: str) -> None:
    text = f"{before}{card}{after}"
    [found] = find_card_numbers(text)

    assert (found.start, found.digits) == (len(before), card)
    assert card not in repr(found)
    assert mask_card_numbers_in_text(text) == before + "*" * len(card) + after


@given(cards, st.sampled_from(" -_"))
def test_a_number_is_found_as_it_is_printed(card: str, separator: str) -> None:
    text = f"({grouped(card, separator)})"

    assert [found.digits for found in find_card_numbers(text)] == [card]
    assert not any(letter.isdigit() for letter in mask_card_numbers_in_text(text))


@given(cards, st.lists(st.integers(0, 18)))
def test_digits_written_as_codes_are_masked(card: str, places: list[int]) -> None:
    written = "".join(
        f"\\u003{digit}" if place in places else digit for place, digit in enumerate(card)
    )
    record = f'{{"card_id":"{written}"}}'

    masked = mask_card_numbers(record.encode()).decode()
    assert json.loads(record) == {"card_id": card}
    assert set(json.loads(masked)["card_id"]) == {"*"}


@pytest.mark.parametrize(
    "text",
    [
        "1793534400000",  # milliseconds
        "1793534400000000000",  # nanoseconds
        "0.4111111111111111",
        "352099001761481",  # a telephone's number, whose last digit is checked in the same way
        "4111111111111111000000",
        "00" + NUMBER,
        "4111-11111-111-1111",
        "f2a4111111111111111b0c44298fc1c149afbf4c8996fb92427ae41e4649b934",
        "550e8400-e29b-4111-1111-111111111111",
        "9876543210987",
        "2026-11-01 12:00:00",
        "4111 1111-1111 1111",
    ],
)
def test_other_numbers_are_left_alone(text: str) -> None:
    assert not holds_card_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "f2a4111111111111111b0c",
        "v=4111111111111111.0",
        "x" + NUMBER,
        "4111 1111 1111 1111 12/28",
        "2345 4111 1111 1111 1111",
        "4111111111111112 4111111111111111",
    ],
)
def test_numbers_beside_others_are_found(text: str) -> None:
    assert holds_card_number(text)


def test_few_random_numbers_and_no_ids_are_taken_for_card_numbers() -> None:
    chance = random.Random(5)
    count = 20_000
    for digits in range(13, 20):
        drawn = (str(chance.randrange(10 ** (digits - 1), 10**digits)) for _ in range(count))
        assert sum(map(is_card_number, drawn)) < 0.06 * count
    made = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(count)]
    made += [f"{chance.getrandbits(256):064x}" for _ in range(count)]
    made += [repr(chance.random()) for _ in range(count)]
    made += [str(chance.randrange(946_684_800_000, 1_999_999_999_999)) for _ in range(count)]
    assert sum(map(holds_card_number, made)) == 0


def problem_of(**changes: object) -> Problem:
    plain = {"transaction_id": "t1", "event_time": 1_793_534_400_000, "card_number": "c1"}
    value = json.dumps(plain | {"terminal_id": "m1", "amount": "9.50"} | changes).encode()
    _, _, rejected = TransactionDecoder(SCHEMA).decode([value])
    return rejected[0].problem


@pytest.mark.parametrize("field", ["transaction_id", "card_number", "terminal_id", "channel"])
@pytest.mark.parametrize("text", [NUMBER, GROUPED, f"card_{NUMBER}", "4111_1111_1111_1111"])
def test_an_id_or_a_category_with_a_number_in_it_is_refused(field: str, text: str) -> None:
    problem = problem_of(**{field: text})

    assert (problem.reason, problem.place) == ("card_number", f"$.{field}")
    assert NUMBER not in str(problem) and GROUPED not in str(problem)


def test_a_category_in_blanks_and_a_number_as_a_number_are_refused() -> None:
    assert problem_of(channel="4111 1111 1111 1111").reason == "card_number"
    assert problem_of(items=int(NUMBER)).reason == "card_number"
    with pytest.raises(IndexError):
        problem_of(items=int(NUMBER) + 1)


@pytest.mark.parametrize("field", ["label_id", "transaction_id", "card_id", "by", "supersedes"])
def test_no_text_of_a_label_may_hold_a_number(field: str) -> None:
    problem = LabelDecoder(CARD).decode_one(label_bytes(**{field: f"x-{NUMBER}"}))

    assert isinstance(problem, Problem)
    assert (problem.reason, problem.place) == ("card_number", f"$.{field}")


def test_a_dead_letter_masks_key_value_headers_their_names_and_unknown_fields() -> None:
    value = event_bytes(unknown={"deep": [{"pan": GROUPED, NUMBER: 1}]})
    record = InputRecord(
        "transactions", 0, 1, NUMBER.encode(), value, 2, ((f"x{NUMBER}", NUMBER.encode()),)
    )
    made = dead_letter(record, Problem("schema", "$", "a", "b"), stage="decode", schema=CARD)

    assert NUMBER not in repr(made) and GROUPED not in repr(made)
    assert dict(made.headers)["fraud.errors.masked"] == b"card numbers"


def test_a_log_line_its_arguments_and_its_traceback_are_masked() -> None:
    page = io.StringIO()
    handler = logging.StreamHandler(page)
    handler.setFormatter(MaskingFormatter(logging.Formatter("%(levelname)s %(message)s")))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        int(f"{NUMBER}x")
    except ValueError:
        logger.exception("no event: %r", {"card": GROUPED})

    said = page.getvalue()
    assert "ERROR no event" in said and "ValueError" in said
    assert NUMBER not in said and GROUPED not in said


@pytest.mark.parametrize(
    "program",
    [
        f"int('{NUMBER}x')",
        f"import threading as t; t.Thread(target=int, args=('{NUMBER}x',)).start()",
        f"import logging, pipeline.cli; logging.warning('see %s', '{NUMBER}')",
    ],
    ids=["uncaught", "thread", "log"],
)
def test_what_a_process_says_at_its_end_is_masked(program: str) -> None:
    prepare = (
        "import logging; from pipeline.log_masking import mask_logs, mask_uncaught; "
        "logging.basicConfig(); mask_logs(); mask_uncaught(); "
    )
    done = subprocess.run(
        [sys.executable, "-c", prepare + program], capture_output=True, text=True, check=False
    )

    # The program itself is named in a traceback: a line of a source may hold a number.
    said = "".join(line for line in done.stderr.splitlines() if "import" not in line)
    assert "*" * 16 in said and NUMBER not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch", NUMBER],
        ["redrive", "--nosuch", NUMBER],
        ["publish", f"{GROUPED}.csv"],
        [NUMBER],
    ],
)
def test_an_error_of_a_command_shows_no_number(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode in (1, 2)
    assert NUMBER not in done.stderr and GROUPED not in done.stderr


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("amount", NUMBER),
        ("event_time", GROUPED),
        ("is_fraud", NUMBER),
        ("channel", f"pos {NUMBER}"),
        ("items", NUMBER),
        ("terminal_id", f"t{NUMBER}"),
    ],
)
def test_a_number_in_the_wrong_column_of_a_file_is_not_shown(
    tmp_path: Path, column: str, text: str
) -> None:
    row = {"transaction_id": "t1", "event_time": "2026-11-01T12:00:00Z", "card_number": "c1"}
    row |= {"terminal_id": "m1", "amount": "1", "is_fraud": "0", "channel": "", "items": ""}
    path = tmp_path / "day.csv"
    pd.DataFrame([row | {column: text}]).to_csv(path, index=False)

    with pytest.raises(DataError) as caught:
        list(read_events(path, SCHEMA))
    assert f"row 1, column {column!r}" in str(caught.value)
    assert NUMBER not in str(caught.value) and GROUPED not in str(caught.value)


def test_who_labels_is_no_number() -> None:
    result = CliRunner().invoke(label, ["t1", "fraud", "--by", f"ana {GROUPED}"], obj=Settings())

    assert str(result.exception) == "--by: expected a name, got a card number"
