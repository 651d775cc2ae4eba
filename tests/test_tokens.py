"""Card numbers become tokens before they are encoded, and no number is ever shown."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.card_numbers import find_card_numbers, mask_card_numbers, passes_luhn
from pipeline.errors import DataError, KeyFileError, SchemaError
from pipeline.keys import TokenKey, init_keys, retire, rotate, token_keys
from pipeline.schema import Schema, parse_schema
from pipeline.settings import Settings
from pipeline.tokens import TOKEN, KeysByTime, digits_of, key_id_of, token_of
from producers.datasets import read_events
from producers.tokens import Tokeniser
from producers.tokens_command import tokens
from stack.keys_command import keys as keys_command
from tests.card_numbers import CARDS, SCHEMA_TEXT, luhn_ended

SCHEMA = parse_schema(SCHEMA_TEXT, place="test")
KEY_ID = "card-tokens-1-9f3c"
WIRE_FORMATS = Path(__file__).parent.parent / "docs/wire-formats.md"
CHANGE_MS = 1_793_577_600_000
ID = r"[A-Za-z0-9_-]{1,64}"

secrets = st.binary(min_size=32, max_size=32)
key_ids = st.builds("card-tokens-{}-{:04x}".format, st.integers(1, 999_999), st.integers(0, 0xFFFF))
numbers = st.integers(12, 18).flatmap(
    lambda count: st.from_regex(rf"[1-9][0-9]{{{count - 1}}}", fullmatch=True).map(luhn_ended)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_keys(tmp_path / "keys", ["card-tokens"])
    return tmp_path / "keys"


@given(numbers, key_ids, secrets)
@example("4111111111111111", "card-tokens-411111-1111", bytes(32))
def test_a_token_is_an_id_that_names_its_key_and_can_be_no_card_number(
    number: str, key_id: str, secret: bytes
) -> None:
    token = token_of(number, key_id, secret)

    assert pd.Series([token]).str.fullmatch(ID).all()
    assert TOKEN.fullmatch(token) and key_id_of(token) == key_id
    assert token == token_of(number, key_id, secret)
    # Whatever stands around it, too few digits stand together.
    assert not list(find_card_numbers(token))
    assert mask_card_numbers(token.encode()) == token.encode()
    assert sum(letter.isdigit() for letter in token) <= 10


def test_a_token_is_what_anyone_else_would_make_with_the_key() -> None:
    secret = bytes(range(32))
    code = hmac.new(secret, b"4111111111111111", hashlib.sha256).hexdigest()
    letters = "".join("abcdefghijklmnop"[int(digit, 16)] for digit in code)

    # What docs/wire-formats.md gives for comparison.
    assert token_of("4111111111111111", KEY_ID, bytes(32)) in WIRE_FORMATS.read_text()
    # 40 letters of four bits.
    assert token_of("4111111111111111", KEY_ID, secret) == "tok-1-9f3c-" + letters[:40]


@given(numbers, st.data())
def test_blanks_and_hyphens_do_not_matter(number: str, data: st.DataObject) -> None:
    separators = data.draw(
        st.lists(st.sampled_from(["", "", "", " ", "-"]), min_size=12, max_size=12)
    )
    grouped = "".join(map("".join, zip(number, separators, strict=False))) + number[12:]

    assert digits_of(grouped) == digits_of(number) == number


@given(numbers, secrets, secrets)
def test_other_keys_and_other_numbers_give_other_tokens(
    number: str, one: bytes, other: bytes
) -> None:
    assert (token_of(number, KEY_ID, one) == token_of(number, KEY_ID, other)) == (one == other)
    assert len({token_of(card, KEY_ID, one) for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4111111111111112",
        "411111111111",
        "41111111111111111111",
        "0000000000000000",
        "4111111111111111.0",
        "4111  1111 1111 1111",
        "4111.1111.1111.1111",
        " 4111111111111111",
        "card-4111111111111111",
        "\u0664111111111111111",
        "tok-1-9f3c-" + "a" * 40,
        "c5",
    ],
)
def test_what_is_no_card_number_is_refused_and_never_shown(folder: Path, text: str) -> None:
    for ask in (lambda: Tokeniser(folder).token(text, 0), lambda: Tokeniser(folder).every(text)):
        with pytest.raises(DataError) as caught:
            ask()
        assert not text or text not in str(caught.value)


def test_a_token_stays_what_it_is_if_its_key_is_here(folder: Path) -> None:
    tokeniser = Tokeniser(folder)
    token = tokeniser.token(CARDS[0], 0)

    assert tokeniser.token(token, CHANGE_MS) == token


def test_a_rotated_key_is_for_events_from_its_moment_on(folder: Path) -> None:
    before = Tokeniser(folder).token(CARDS[0], CHANGE_MS - 1)
    new = rotate(folder, "card-tokens", from_ms=CHANGE_MS)
    tokeniser = Tokeniser(folder)

    # The last event before it, whenever it is published or labelled, has the token that it had.
    assert tokeniser.token(CARDS[0], CHANGE_MS - 1) == before
    after = tokeniser.token(CARDS[0], CHANGE_MS)
    assert key_id_of(after) == new
    assert list(tokeniser.every(CARDS[0]).values()) == [before, after]


def test_once_the_old_key_is_retired_its_events_cannot_be_tokenised(folder: Path) -> None:
    [old] = token_keys(folder).ids
    rotate(folder, "card-tokens", from_ms=CHANGE_MS)
    retire(folder, old)
    tokeniser = Tokeniser(folder)

    assert tokeniser.token(CARDS[0], CHANGE_MS)
    with pytest.raises(KeyFileError, match="no key of card-tokens in .* as early as"):
        tokeniser.token(CARDS[0], CHANGE_MS - 1)


def test_a_producer_that_runs_sees_a_new_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producers.tokens.REFRESH_SECONDS", -1.0)
    tokeniser = Tokeniser(folder)
    new = rotate(folder, "card-tokens", from_ms=CHANGE_MS)

    assert key_id_of(tokeniser.token(CARDS[0], CHANGE_MS)) == new


def test_keys_that_contradict_each_other_are_refused(folder: Path) -> None:
    for from_ms in (-1, 0):
        with pytest.raises(KeyFileError, match="needs a moment"):
            rotate(folder, "card-tokens", from_ms=from_ms)
    [first] = (folder / "tokens").iterdir()
    (folder / "tokens" / "card-tokens-2-0000.key").write_bytes(first.read_bytes())
    (folder / "tokens" / "card-tokens-2-0000.key").chmod(0o600)

    with pytest.raises(KeyFileError, match="in force from the same moment"):
        Tokeniser(folder)


def test_a_moment_is_read_back_as_it_was_written(folder: Path) -> None:
    new = rotate(folder, "card-tokens", from_ms=CHANGE_MS + 123)

    found = token_keys(folder).get(new)
    assert found is not None and found.from_ms == CHANGE_MS + 123
    assert found.secret.hex() not in repr(found)


def test_a_first_key_may_have_a_moment_too(tmp_path: Path) -> None:
    rotate(tmp_path, "card-tokens", from_ms=CHANGE_MS)

    assert Tokeniser(tmp_path).token(CARDS[0], CHANGE_MS)
    with pytest.raises(KeyFileError, match="as early as"):
        Tokeniser(tmp_path).token(CARDS[0], CHANGE_MS - 1)


@pytest.mark.parametrize("line", ["since 2026", "from tomorrow", "from 2026-11-01T12:00:00"])
def test_a_key_with_an_odd_second_line_is_refused(folder: Path, line: str) -> None:
    [file] = (folder / "tokens").iterdir()
    file.write_text(f"{'00' * 32}\n{line}\n")

    with pytest.raises(KeyFileError, match="cannot be read"):
        Tokeniser(folder)


@given(st.sets(st.integers(1, 10**13), max_size=5), st.integers(0, 10**13))
def test_the_key_in_force_is_the_latest_that_has_come(moments: set[int], now: int) -> None:
    all_moments = [0, *moments]
    made = [(f"card-tokens-{moment}-0000", TokenKey(b"", moment)) for moment in all_moments]

    found = KeysByTime(made).at(now)
    assert found is not None
    assert found[1].from_ms == max(moment for moment in all_moments if moment <= now)


def test_without_a_key_it_says_which_command_makes_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="keys init --source card-tokens"):
        Tokeniser(tmp_path)


def file_of(folder: Path, name: str, cards: list[str]) -> Path:
    path = folder / name
    count = len(cards)
    frame = pd.DataFrame(
        {
            "transaction_id": [f"t{number}" for number in range(count)],
            "event_time": [CHANGE_MS - 1 + number for number in range(count)],
            "card_number": cards,
            "terminal_id": ["m1"] * count,
            "amount": ["9.50"] * count,
            "is_fraud": [0] * count,
        }
    )
    if name.endswith(".parquet"):
        frame["card_number"] = frame["card_number"].astype("int64")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["day.csv", "day.parquet"])
def test_a_files_numbers_become_tokens_each_by_the_time_of_its_event(
    folder: Path, tmp_path: Path, name: str
) -> None:
    rotate(folder, "card-tokens", from_ms=CHANGE_MS)
    tokeniser = Tokeniser(folder)
    path = file_of(tmp_path, name, [CARDS[0], CARDS[0], CARDS[1]])

    [batch] = read_events(path, SCHEMA, tokeniser=tokeniser)

    old, new = tokeniser.every(CARDS[0]).values()
    assert batch.keys[0] == [old, new, tokeniser.token(CARDS[1], CHANGE_MS)]


def test_a_file_says_where_a_number_is_none_without_showing_it(
    folder: Path, tmp_path: Path
) -> None:
    path = file_of(tmp_path, "day.csv", [CARDS[0], "4111111111111112"])

    with pytest.raises(DataError) as caught:
        list(read_events(path, SCHEMA, tokeniser=Tokeniser(folder)))
    assert str(caught.value) == (
        "day.csv: row 2, column 'card_number': expected a card number of 13 to 19 digits, "
        "or its token, got another text"
    )


def test_without_a_tokeniser_a_files_numbers_are_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, "day.csv", ["4111-1111-1111-1111"])

    with pytest.raises(DataError, match="row 1, column 'card_number': .* got a card number"):
        list(read_events(path, SCHEMA))


def test_a_schema_says_which_field_and_never_the_event_id() -> None:
    assert SCHEMA.is_tokenised and not plain().is_tokenised
    text = SCHEMA_TEXT.replace('id = "transaction_id"', 'id = "card_number"')
    with pytest.raises(SchemaError, match="'card_number' cannot be tokenised"):
        parse_schema(text, place="test")
    assert Tokeniser.of(Settings(), plain()) is None


def plain() -> Schema:
    return parse_schema(SCHEMA_TEXT.replace("tokenise = true", ""), place="test")


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(keys_command, arguments, obj=Settings(keys_dir=str(folder)))


def test_the_command_makes_lists_rotates_and_retires_them(tmp_path: Path) -> None:
    run(tmp_path, "init")
    assert not (tmp_path / "tokens").exists()
    [made] = run(tmp_path, "init", "--source", "card-tokens", "--json").stdout.splitlines()
    first = json.loads(made)["key"]

    assert "needs --from" in str(run(tmp_path, "rotate", "card-tokens").exception)
    past = run(tmp_path, "rotate", "card-tokens", "--from", "2020-01-01")
    assert "still to come" in str(past.exception)
    wrong = run(tmp_path, "rotate", "analyst", "--from", "2999-01-01")
    assert "--from is for card-tokens" in str(wrong.exception)
    [made] = run(
        tmp_path, "rotate", "card-tokens", "--from", "2999-01-01", "--json"
    ).stdout.splitlines()
    second = json.loads(made)["key"]

    rows = [json.loads(line) for line in run(tmp_path, "list", "--json").stdout.splitlines()]
    roles = {row["key"]: row["role"] for row in rows if row["of"] == "card-tokens"}
    assert roles == {
        first: "makes tokens",
        second: "makes tokens from 2999-01-01 00:00:00Z on",
    }
    for key_id in (first, second):
        assert isinstance(run(tmp_path, "retire", key_id).exception, KeyFileError)


def test_a_key_whose_time_has_passed_can_be_retired(folder: Path) -> None:
    [old] = token_keys(folder).ids
    passed_ms = round(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1_000)
    rotate(folder, "card-tokens", from_ms=passed_ms)

    assert run(folder, "retire", old).exit_code == 0


def test_the_tokens_of_numbers_are_given_by_line_and_no_number_is_shown(folder: Path) -> None:
    rotate(folder, "card-tokens", from_ms=CHANGE_MS)
    settings = Settings(keys_dir=str(folder))
    typed = f"{CARDS[0]}\n\n{CARDS[1]}\n"

    result = CliRunner().invoke(tokens, input=typed, obj=settings)

    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    tokeniser = Tokeniser(folder)
    assert rows == [
        {"line": 1, "tokens": tokeniser.every(CARDS[0])},
        {"line": 3, "tokens": tokeniser.every(CARDS[1])},
    ]
    refused = CliRunner().invoke(tokens, input="4111111111111112\n", obj=settings)
    assert str(refused.exception).endswith(
        "line 1: expected a card number of 13 to 19 digits, got another text"
    )


def test_the_check_digit_is_what_makes_a_number() -> None:
    for card in CARDS:
        assert passes_luhn(card)
        others = {card[:-1] + str(digit) for digit in range(10)} - {card}
        assert not any(map(passes_luhn, others))
