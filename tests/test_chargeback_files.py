"""Chargeback files: what a row means, which decision it fits, what is left for a person."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.case_mapping import (
    STAGES,
    Columns,
    Mapping,
    Options,
    check_mapping,
    guessed,
    load_mapping,
)
from consumers.case_matching import Decided, Known, Matched, match_cases
from consumers.case_rows import Case, CaseReader, Left, Span, read_rows
from consumers.reason_codes import ReasonCodes
from pipeline.cli import cli
from pipeline.durations import DAY_MS
from pipeline.errors import DataError
from pipeline.records import DecisionRecord, encode_record
from pipeline.schema import load_schema

CARD = "4111111111111111"
SCHEMA = load_schema("card")
CODES = ReasonCodes.shipped()
COLUMNS = Columns(
    *("ref", "token", "amount", "currency", "date", "reason", "scheme", "status", "case", "known")
)
UTC_DAYS = Options(time_zone="UTC")
# 2026-11-01T12:00:00Z
NOON_MS = 1_793_534_400_000


def row(**changes: str) -> dict[str, str]:
    """Give the cells of a row that matches t1 by its reference."""
    cells = {
        "ref": "t1", "token": "", "amount": "9.50", "currency": "EUR", "date": "2026-11-01",
        "reason": "10.4", "scheme": "Visa", "status": "", "case": "k1", "known": "2026-12-01",
    }  # fmt: skip
    return cells | changes


def case_of(options: Options = UTC_DAYS, **changes: str) -> object:
    """Give what a row becomes."""
    reader = CaseReader(Mapping(COLUMNS, options), SCHEMA, CODES)
    [found] = reader.cases([(2, row(**changes))])
    return found


def decided(name: str, *, day: int = 0, amount: int = 950, card: str = "c1") -> Decided:
    keys = {"card": card, "terminal": "m1"}
    return Decided(name, NOON_MS + day * DAY_MS, keys, amount, "EUR")


def matched(*rows: dict[str, str], decisions: list[Decided], window_days: int = 2) -> Matched:
    """Match rows, from line 2 on, to decisions."""
    reader = CaseReader(Mapping(COLUMNS, UTC_DAYS), SCHEMA, CODES)
    cases = list(reader.cases(list(enumerate(rows, start=2))))
    assert all(isinstance(case, Case) for case in cases), cases
    known = Known("card")
    for item in decisions:
        known.add(item)
    return match_cases(
        [case for case in cases if isinstance(case, Case)],
        known,
        key_entity="card",
        window_days=window_days,
    )


def test_the_codes_of_the_schemes_are_disjoint() -> None:
    """Then a file without a scheme column is read as well as one with it."""
    codes = [code for table in CODES.schemes.values() for code in table]

    assert set(CODES.schemes) == {"visa", "mastercard", "amex", "discover"}
    assert len(codes) == len(set(codes)) > 90


@pytest.mark.parametrize(
    ("code", "scheme", "meaning"),
    [
        ("10.4", "VISA", "fraud"), ("13.1", "", "genuine"), ("12.6.1", "visa", "ignore"),
        ("4837", "Master Card", "fraud"), ("4863", "MC", "fraud"), ("4853", "", "genuine"),
        ("f29", "American Express", "fraud"), ("C08", "amex", "genuine"), ("A02", "", "ignore"),
        ("UA02", "Discover", "fraud"), ("RG", "Diners", "genuine"), ("AA", "", "ignore"),
        ("10.4 - Other Fraud: Card-Absent", "visa", "fraud"), ("4837", "visa", None),
        ("", "visa", None), ("fraud", "", None), ("10.9", "", None), ("UA02", "own", "fraud"),
    ],
)  # fmt: skip
def test_a_reason_code_has_its_meaning_or_none(code: str, scheme: str, meaning: str | None) -> None:
    assert CODES.meaning(code, scheme) == meaning


@pytest.mark.parametrize(
    ("text", "options", "minor"),
    [
        ("9.50", UTC_DAYS, 950), ("9.5", UTC_DAYS, 950), ("9", UTC_DAYS, 900),
        ("0.1", UTC_DAYS, 10), ("1000000.01", UTC_DAYS, 100_000_001), ("9.500", UTC_DAYS, 950),
        ("1.234,50", Options(time_zone="UTC", decimal_comma=True), 123_450),
        ("-9.50", Options(time_zone="UTC", negative_amounts=True), 950),
    ],
)  # fmt: skip
def test_an_amount_is_exact(text: str, options: Options, minor: int) -> None:
    found = case_of(options, amount=text)

    assert isinstance(found, Case)
    assert found.amount_minor == minor


@pytest.mark.parametrize("text", ["", "-1", "9.505", "9,50", "1e3", "NaN", "EUR 9.50", "٣"])
def test_an_amount_that_is_none_is_said(text: str) -> None:
    found = case_of(amount=text)

    assert isinstance(found, Case)
    assert str(found.amount_minor).startswith("expected ")


@settings(deadline=None)
@given(minor=st.integers(0, 1_000_000_000))
def test_every_amount_survives(minor: int) -> None:
    found = case_of(amount=str(Decimal(minor).scaleb(-2)))

    assert isinstance(found, Case)
    assert found.amount_minor == minor


@pytest.mark.parametrize(
    ("text", "options", "span"),
    [
        ("2026-11-01", UTC_DAYS, ("2026-11-01T00:00Z", 24)),
        ("01/11/2026", Options(time_zone="UTC", date_format="%d/%m/%Y"), ("2026-11-01T00:00Z", 24)),
        ("2026-07-01", Options(time_zone="Europe/Berlin"), ("2026-06-30T22:00Z", 24)),
        ("2026-10-25", Options(time_zone="Europe/Berlin"), ("2026-10-24T22:00Z", 25)),
        ("2026-11-01T12:00:00+02:00", Options(), ("2026-11-01T10:00Z", 0)),
        ("2026-11-01 12:00", Options(time_zone="Asia/Tokyo"), ("2026-11-01T03:00Z", 0)),
    ],
)
def test_a_date_is_a_day_of_its_zone(text: str, options: Options, span: tuple[str, int]) -> None:
    label = "2026-12-01T00:00:00Z" if not options.date_format else "01/12/2026"
    found = case_of(options, date=text, known=label)

    assert isinstance(found, Case)
    assert isinstance(found.when, Span)
    start, hours = span
    first = int(pd.Timestamp(start).timestamp() * 1000)
    assert (found.when.first_ms, found.when.last_ms) == (
        first,
        first + max(hours * 3_600_000 - 1, 0),
    )


def test_what_became_known_on_a_day_was_known_by_its_end() -> None:
    found = case_of(known="2026-12-01")

    assert isinstance(found, Case)
    assert found.label_ms == int(pd.Timestamp("2026-12-02T00:00Z").timestamp() * 1000) - 1


def test_a_time_without_an_offset_needs_a_zone() -> None:
    with pytest.raises(DataError, match=r"\[options\] time_zone is needed"):
        case_of(Options())


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"reason": "99.9"}, "unknown_reason"),
        ({"reason": ""}, "unknown_reason"),
        ({"status": "who knows"}, "unknown_status"),
        ({"known": "soon"}, "bad_label_date"),
        ({"known": ""}, "bad_label_date"),
        ({"known": "1970-01-01"}, "bad_label_date"),
        ({"token": CARD}, "card_number"),
        ({"ref": CARD}, "card_number"),
        ({"reason": CARD}, "unknown_reason"),
        ({"status": CARD}, "unknown_status"),
    ],
)
def test_a_row_that_says_nothing_certain_is_left(changes: dict[str, str], kind: str) -> None:
    found = case_of(**changes)

    assert isinstance(found, Left)
    assert (found.line, found.kind) == (2, kind)
    assert CARD not in found.why


def test_a_reference_decides() -> None:
    found = matched(row(amount="3.00", currency="USD", date=""), decisions=[decided("t1")])

    assert [(match.how, match.label.transaction_id) for match in found.matches] == [
        ("reference", "t1")
    ]
    [label] = found.labels
    assert (label.is_fraud, label.source, label.key) == (True, "chargeback", "c1")


@pytest.mark.parametrize(
    ("decisions", "changes", "kind", "why"),
    [
        ([decided("t2"), decided("t3", day=1)], {}, "ambiguous", "2 decisions fit"),
        ([decided("t2", card="c2")], {}, "unmatched", "no decision has its token"),
        ([decided("t2", day=3)], {}, "unmatched", "no decision of its token is within 2 days"),
        ([decided("t2", day=-3)], {}, "unmatched", "no decision of its token is within 2 days"),
        ([decided("t2", amount=951)], {}, "unmatched", "has its amount"),
        ([decided("t2")], {"currency": "USD"}, "unmatched", "has its currency"),
        ([decided("t2")], {"amount": "x"}, "unmatched", "its amount: expected an amount such as"),
        ([decided("t2")], {"date": ""}, "unmatched", "its date: expected ISO 8601, got nothing"),
        ([decided("t2")], {"token": ""}, "unmatched", "there is no token to find it by"),
        ([decided("t2")], {"known": "2026-10-01"}, "before_transaction", "is label_date another"),
        ([decided("t1", card="c9")], {}, "contradiction", "a transaction of another token"),
    ],
)
def test_nothing_is_guessed(
    decisions: list[Decided], changes: dict[str, str], kind: str, why: str
) -> None:
    found = matched(row(**({"token": "c1"} | changes)), decisions=decisions)

    assert found.labels == []
    [left] = found.left
    assert (left.line, left.kind) == (2, kind)
    assert why in left.why


@pytest.mark.parametrize("day", [-2, 0, 2])
def test_one_decision_of_the_window_fits(day: int) -> None:
    others = [decided("t5", amount=1), decided("t6", card="c2"), decided("t7", day=9)]

    found = matched(row(ref="", token="c1"), decisions=[decided("t2", day=day), *others])

    assert [(match.how, match.label.transaction_id) for match in found.matches] == [("token", "t2")]


def test_two_cases_that_claim_one_decision_are_both_left() -> None:
    rows = [row(ref="", token="c1", case="k1"), row(ref="", token="c1", case="k2")]

    found = matched(*rows, decisions=[decided("t2")])

    assert found.labels == []
    assert [(left.line, left.kind) for left in found.left] == [(2, "ambiguous"), (3, "ambiguous")]


def test_a_dispute_that_was_won_takes_the_label_back() -> None:
    won = row(status="Representment Won", known="2027-01-10", reason="")

    found = matched(row(), won, decisions=[decided("t1")])

    first, second = found.labels
    assert (first.source, first.is_fraud) == ("chargeback", True)
    assert (second.source, second.is_fraud, second.supersedes) == (
        "dispute_won", False, first.label_id,
    )  # fmt: skip
    alone = matched(won, decisions=[decided("t1")])
    assert [label.label_id for label in alone.labels] == [second.label_id]


def test_the_same_row_is_the_same_label_in_every_file() -> None:
    decisions = [decided("t1"), decided("t9")]
    old = matched(row(), row(), row(ref="t9", case="k9"), decisions=decisions)
    newer = matched(row(ref="t9", case="k9"), row(), row(case="k2"), decisions=decisions)

    assert old.repeated == 1
    ids = [label.label_id for label in old.labels]
    assert len(set(ids)) == 2
    assert [label.label_id in ids for label in newer.labels] == [True, True, False]
    for changes in ({"case": "k3"}, {"reason": "10.3"}, {"known": "2026-12-02"}):
        [label] = matched(row(**changes), decisions=decisions).labels
        assert label.label_id not in ids


def test_a_decision_that_was_published_twice_is_one() -> None:
    found = matched(row(ref="", token="c1"), decisions=[decided("t2"), decided("t2")])

    assert len(found.labels) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("Transaction ID", "Reason Code", "Chargeback Date"),
        ("order_id", "chargeback_reason", "dispute-date"),
        ("CardToken", "Amount", "Currency", "TransactionDate", "ReasonCode", "ReceivedDate"),
    ],
)
def test_obvious_names_are_guessed(names: tuple[str, ...]) -> None:
    check_mapping(guessed(names), names, SCHEMA)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (Mapping(Columns(reference="x", reason="b", label_date="c")), "no column 'x'"),
        (Mapping(Columns(reference="a", label_date="c")), "reason is needed"),
        (Mapping(Columns(reference="a", reason="b")), "label_date is needed"),
        (Mapping(Columns(token="a", reason="b", label_date="c")), "reference is needed, or token"),
        (Mapping(Columns(*"aaa", None, "a", "b", label_date="c")), "currency is needed"),
        (Mapping(Columns("a", reason="b", label_date="c"), Options(time_zone="Mars")), "'Mars'"),
        (Mapping(Columns("a", reason="b", label_date="c"), Options(token_entity="x")), "card, ter"),
    ],
)  # fmt: skip
def test_a_mapping_that_cannot_be_is_refused(mapping: Mapping, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_mapping(mapping, ("a", "b", "c"), SCHEMA)


def test_every_word_of_the_statuses_can_be_read() -> None:
    assert {Mapping(COLUMNS).stage(f" {text.upper()} ") for text in STAGES} == {
        "chargeback", "dispute_won", "ignore",
    }  # fmt: skip
    assert Mapping(COLUMNS, statuses={"Gewonnen": "dispute_won"}).stage("gewonnen") == "dispute_won"


@pytest.mark.parametrize(
    "text",
    [
        f"ref,note\nt1,{CARD}\n",
        "ref,note\nt1,call about 4111 1111 1111 1111 today\nt2,ok\nt3,ok\n",
        "ref,note\nt1,3782-822463-10005\nt2,ok\nt3,ok\n",
        f"ref,{CARD}\nt1,x\n",
    ],
)
def test_card_numbers_are_refused_and_never_shown(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(DataError, match="card number.*tokens") as error:
        read_rows(file)
    assert not any(part in str(error.value) for part in (CARD, "4111", "822463"))


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_bytes(b'\xef\xbb\xbfref;note\r\nt1;"two\r\nlines"\r\n\r\nt2;x\r\n')

    assert read_rows(file, ";") == (
        ["ref", "note"],
        [(2, {"ref": "t1", "note": "two\r\nlines"}), (5, {"ref": "t2", "note": "x"})],
    )


TABLES = st.text('ab,"\n\r;12.-Z:é ', max_size=200).map(str.encode)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200) | TABLES)
def test_any_bytes_get_a_clear_answer(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for ending in (".csv", ".parquet"):
        file = tmp_path_factory.mktemp("any") / f"any{ending}"
        file.write_bytes(data)
        try:
            names, rows = read_rows(file)
        except DataError:
            continue
        assert names
        mapping = Mapping(Columns(*[names[0]] * 10), UTC_DAYS)
        assert len(list(CaseReader(mapping, SCHEMA, CODES).cases(rows))) == len(rows)


def decision_line(name: str) -> bytes:
    keys = {"card": "c1", "terminal": "m1"}
    return encode_record(
        DecisionRecord(
            name, NOON_MS, keys, 950, "EUR", "approve", 0.1, [], "additive@0", "p", 1.0, 0, "s",
            b"", {}, ("transactions", 0, 0),
        )
    )  # fmt: skip


def test_a_file_is_matched_without_any_server(tmp_path: Path) -> None:
    mapping, file = tmp_path / "mine.toml", tmp_path / "cases.parquet"
    mapping.write_text(
        "[columns]\n" + "".join(f'{key} = "{name}"\n' for key, name in COLUMNS.named.items())
        + '[options]\ntime_zone = "UTC"\n',
        encoding="utf-8",
    )  # fmt: skip
    assert load_mapping(mapping).columns == COLUMNS
    rows = [row(), row(ref="t7"), row(reason="12.5"), row(ref="t2", amount="x")]
    pd.DataFrame(rows).to_parquet(file)
    decisions, report = tmp_path / "decisions.jsonl", tmp_path / "left.csv"
    decisions.write_bytes(decision_line("t1") + b"\n" + decision_line("t2") + b"\n")

    done = CliRunner().invoke(
        cli,
        ["labels", str(file), "--mapping", str(mapping), "--decisions", str(decisions)]
        + ["--dry-run", "--json", "--report", str(report)],
    )

    assert done.exit_code == 1, done.output
    answer = json.loads(done.stdout)
    assert (answer["rows"], answer["matched"]["reference"], answer["ignored"]) == (4, 2, 1)
    assert (answer["published"], answer["verdicts"]["fraud"]) == (0, 2)
    assert [label["transaction_id"] for label in answer["labels"]] == ["t1", "t2"]
    with report.open(encoding="utf-8") as written:
        [left] = csv.DictReader(written)
    assert (left["line"], left["kind"]) == ("2", "unmatched")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "[columns] reason is needed"),
        (f"transaction_id,reason_code,chargeback_date\n{CARD},10.4,2026-11-01\n", "card number"),
        ("transaction_id,reason_code,chargeback_date\nt1,10.4,2026-11-01\n", "time_zone is needed"),
        ("transaction_id,reason_code\nt1\n", "line 2: expected 2 columns, got 1"),
    ],
)
def test_wrong_use_is_exit_code_2(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text(text, encoding="utf-8")
    decisions = tmp_path / "decisions.jsonl"
    decisions.write_bytes(b"")

    done = CliRunner().invoke(
        cli, ["labels", str(file), "--decisions", str(decisions), "--dry-run"]
    )

    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert CARD not in done.output
