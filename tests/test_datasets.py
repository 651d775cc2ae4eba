"""Files into batches: exact amounts, times of every documented form, and errors that say where."""

import os
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.events import AMOUNT_MINOR_MAX
from pipeline.schema import Schema, load_schema, parse_schema
from producers import datasets
from producers.batch import EventBatch, joined
from producers.datasets import count_rows, read_events
from producers.simulator import SimulatorOptions, simulate
from producers.writing import write_events

CARD = load_schema("card")
TIME = "2026-11-01T12:00:00Z"
TIME_MS = 1_793_534_400_000

ROW: dict[str, Any] = {
    "transaction_id": "t1",
    "event_time": TIME,
    "card_id": "c1",
    "terminal_id": "m1",
    "amount": "9.50",
    "is_fraud": "0",
}

RICH = parse_schema(
    """
    name = "rich"
    version = 1
    [event]
    id = "id"
    time = "time"
    amount = "amount"
    currency = "currency"
    currency_default = "JPY"
    minor_digits = 0
    [[entity]]
    name = "card"
    field = "card"
    [[category]]
    name = "channel"
    field = "channel"
    [label]
    field = "fraud"
    """,
    place="rich.toml",
)


def rows(*changes: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([ROW | change for change in changes])


def csv(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "day.csv"
    frame.to_csv(path, index=False)
    return path


def parquet(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "day.parquet"
    frame.to_parquet(path, index=False)
    return path


def read(path: Path, schema: Schema = CARD, **options: bool) -> EventBatch:
    return joined(list(read_events(path, schema, **options)))


def error_of(path: Path, schema: Schema = CARD) -> str:
    with pytest.raises(DataError) as caught:
        read(path, schema)
    return str(caught.value)


@pytest.mark.parametrize("name", ["days.csv", "days.parquet"])
def test_what_was_written_is_read_back(tmp_path: Path, name: str) -> None:
    days = list(simulate(SimulatorOptions(customers=200, terminals=100, days=10)))
    path = tmp_path / name
    count = write_events(path, days, CARD)
    written, found = joined(days), read(path)

    assert count == len(found) == len(written)
    assert found.transaction_id == written.transaction_id
    assert found.keys == written.keys
    assert found.currency == written.currency
    for column in ("event_time_ms", "amount_minor", "is_fraud", "scenario"):
        assert np.array_equal(getattr(found, column), getattr(written, column))
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path) -> None:
    def days() -> Any:
        yield from simulate(SimulatorOptions(customers=10, terminals=10, days=1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_events(tmp_path / "days.parquet", days(), CARD)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [csv, parquet])
def test_chunks_make_no_difference(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, rows(*({"transaction_id": f"t{number}"} for number in range(25))))
    whole = read(path)
    monkeypatch.setattr(datasets, "CHUNK_ROWS", 7)
    parts = list(read_events(path, CARD))

    assert [len(part) for part in parts] == [7, 7, 7, 4]
    assert joined(parts).transaction_id == whole.transaction_id


@pytest.mark.parametrize(
    "times",
    [
        [TIME],
        ["2026-11-01 12:00:00"],
        ["2026-11-01T14:00:00+02:00"],
        ["2026-11-01T12:00:00.000Z"],
        [TIME_MS],
        pd.to_datetime(["2026-11-01T12:00:00"]),
        pd.to_datetime(["2026-11-01T14:00:00+02:00"]),
        pd.to_datetime(["2026-11-01T12:00:00"]).as_unit("ns"),
    ],
)
@pytest.mark.parametrize("write", [csv, parquet])
def test_every_documented_form_of_time_is_read(tmp_path: Path, write: Any, times: Any) -> None:
    frame = rows({})
    frame["event_time"] = times

    assert read(write(tmp_path, frame)).event_time_ms.tolist() == [TIME_MS]


@pytest.mark.parametrize("write", [csv, parquet])
def test_seconds_are_refused_with_what_was_expected_and_found(tmp_path: Path, write: Any) -> None:
    message = error_of(write(tmp_path, rows({"event_time": TIME_MS // 1_000})))

    assert "row 1, column 'event_time': expected whole milliseconds since 1970" in message
    assert "got 1793534400" in message
    assert "seconds" in message


@pytest.mark.parametrize("time", ["yesterday", "1999-12-31T00:00:00Z", "2101-01-01T00:00:00Z", ""])
def test_what_is_no_time_is_refused(tmp_path: Path, time: str) -> None:
    message = error_of(csv(tmp_path, rows({}, {"event_time": time})))

    assert message.startswith("day.csv: row 2, column 'event_time': expected a time")


@given(
    st.lists(st.integers(0, AMOUNT_MINOR_MAX), min_size=1, max_size=50), st.sampled_from([0, 2, 3])
)
def test_amounts_survive_text_floats_and_decimals(minor: list[int], digits: int) -> None:
    exact = [Decimal(amount).scaleb(-digits) for amount in minor]
    schema = parse_schema(
        '[event]\nid="id"\ntime="time"\namount="amount"\ncurrency_default="EUR"\n'
        f'minor_digits={digits}\n[[entity]]\nname="card"\nfield="card"\n'.replace(
            "[event]", 'name="plain"\nversion=1\n[event]', 1
        ),
        place="plain.toml",
    )
    base = pd.DataFrame({"id": range(len(minor)), "time": TIME_MS, "card": "c1"})
    with tempfile.TemporaryDirectory() as folder:
        for column in (map(str, exact), map(float, exact), exact):
            frame = base.assign(amount=list(column))
            for write in (csv, parquet):
                found = read(write(Path(folder), frame), schema)
                assert found.amount_minor.tolist() == minor


def test_a_float_of_32_bits_stands_for_its_shortest_decimal(tmp_path: Path) -> None:
    frame = rows({}, {})
    frame["amount"] = np.array([12.34, 65_535.99], dtype=np.float32)

    assert read(parquet(tmp_path, frame)).amount_minor.tolist() == [1_234, 6_553_599]


def test_a_rounding_error_of_the_writer_is_forgiven_but_half_a_cent_is_not(tmp_path: Path) -> None:
    assert read(csv(tmp_path, rows({"amount": 0.1 + 0.2}))).amount_minor.tolist() == [30]
    assert "got '0.305'" in error_of(csv(tmp_path, rows({"amount": "0.305"})))


@pytest.mark.parametrize(
    "amount",
    ["-1", "-0.01", "nan", "inf", "", "9,50", "abc", "0.005", "0.00001", "10000000.01", "1e99"],
)
def test_what_is_no_amount_is_refused_with_its_place(tmp_path: Path, amount: str) -> None:
    message = error_of(csv(tmp_path, rows({}, {}, {"amount": amount})))

    assert message.startswith(
        "day.csv: row 3, column 'amount': expected an amount of 0 to 10,000,000.00 with at most 2 "
        "decimal places, got "
    )


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf"), 0.005, 1e300])
def test_what_is_no_amount_is_refused_as_a_float_too(tmp_path: Path, amount: float) -> None:
    assert "row 2, column 'amount'" in error_of(
        parquet(tmp_path, rows({"amount": 1.0}, {"amount": amount}))
    )


def test_whole_numbers_become_ids_without_losing_digits(tmp_path: Path) -> None:
    frame = rows({"transaction_id": 9_007_199_254_740_993, "card_id": 7})

    for write in (csv, parquet):
        found = read(write(tmp_path, frame))
        assert (found.transaction_id, found.keys[0]) == (["9007199254740993"], ["7"])


@pytest.mark.parametrize("text", ["", "c 1", "ä", "c" * 65, "c/1", "c1\n"])
def test_what_is_no_id_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    message = error_of(csv(tmp_path, rows({"card_id": text})))

    assert message.startswith("day.csv: row 1, column 'card_id': expected an id of 1 to 64")
    assert not text or text not in message


def test_a_card_number_is_refused_without_showing_it(tmp_path: Path) -> None:
    message = error_of(csv(tmp_path, rows({}, {"card_id": "4111111111111111"})))

    assert message == "day.csv: row 2, column 'card_id': expected a token, got a card number"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, None], [0, 1, -1]),
        (["0", "1", ""], [0, 1, -1]),
        (["False", "true", None], [0, 1, -1]),
        ([0.0, 1.0, float("nan")], [0, 1, -1]),
    ],
)
@pytest.mark.parametrize("write", [csv, parquet])
def test_a_missing_label_is_unknown(
    tmp_path: Path, write: Any, labels: list[Any], expected: list[int]
) -> None:
    frame = rows({}, {}, {})
    frame["is_fraud"] = labels

    assert read(write(tmp_path, frame)).is_fraud.tolist() == expected


def test_what_is_no_label_is_refused(tmp_path: Path) -> None:
    message = error_of(csv(tmp_path, rows({}, {"is_fraud": "2"})))

    assert message.startswith("day.csv: row 2, column 'is_fraud': expected a label of 0 or 1")


def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    message = error_of(csv(tmp_path, rows({}).drop(columns="card_id")))

    assert message == (
        "day.csv: column 'card_id' of schema 'card' is missing: the file has transaction_id, "
        "event_time, terminal_id, amount, is_fraud"
    )


def test_a_file_without_labels_is_read_when_none_are_wanted(tmp_path: Path) -> None:
    path = parquet(tmp_path, rows({}).drop(columns="is_fraud"))

    assert "--no-labels" in error_of(path)
    assert read(path, labels=False).is_fraud.tolist() == [-1]


def test_disorder_is_refused_with_both_times_also_across_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "CHUNK_ROWS", 2)
    late, early = {"event_time": TIME}, {"event_time": "2026-11-01T11:00:00Z"}
    message = error_of(csv(tmp_path, rows(late, late, early)))

    assert message == (
        "day.csv: row 3, column 'event_time': 2026-11-01T11:00:00.000Z comes after "
        "2026-11-01T12:00:00.000Z: sort the file by time, or read it whole (sort)"
    )


def test_a_file_in_disorder_can_be_read_whole(tmp_path: Path) -> None:
    times = ["2026-11-01T12:00:00Z", "2026-11-01T11:00:00Z", "2026-11-01T12:00:00Z"]
    frame = rows(*({"event_time": time, "transaction_id": f"t{n}"} for n, time in enumerate(times)))

    assert read(csv(tmp_path, frame), sort=True).transaction_id == ["t1", "t0", "t2"]


def test_currency_and_categories_have_their_defaults(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "id": ["t1", "t2"],
            "time": TIME,
            "amount": ["950", "0"],
            "currency": ["USD", None],
            "card": "c1",
            "channel": [None, "web"],
            "fraud": 0,
        }
    )
    found = read(csv(tmp_path, frame), RICH)
    without = read(parquet(tmp_path, frame.drop(columns="currency")), RICH)

    assert (found.currency, found.categories) == (["USD", "JPY"], (["none", "web"],))
    assert found.amount_minor.tolist() == [950, 0]
    assert found.transactions().keys == (["c1", "c1"], ["none", "web"])
    assert without.currency == ["JPY", "JPY"]


def test_what_is_no_currency_is_refused(tmp_path: Path) -> None:
    message = error_of(csv(tmp_path, rows({"currency": "EUR"}, {"currency": "euro"})))

    assert (
        message
        == "day.csv: row 2, column 'currency': expected a currency code such as EUR, got 'euro'"
    )


@pytest.mark.parametrize("name", ["cards.pkl", "cards.pickle"])
def test_a_pickled_file_is_refused_unopened(name: str) -> None:
    assert "pickled files are never loaded" in error_of(Path(name))


def test_files_of_other_kinds_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no, not really PAR1")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "latin.csv").write_bytes(b"transaction_id\n\xe4\xf6\xfc\n")

    assert "must end in .csv or .parquet" in error_of(Path("cards.xlsx"))
    assert "does not exist" in error_of(tmp_path / "none.csv")
    for name in ("broken.parquet", "empty.csv", "latin.csv"):
        assert error_of(tmp_path / name).startswith(f"{name}: ")


def test_a_file_without_rows_has_no_batches(tmp_path: Path) -> None:
    assert list(read_events(csv(tmp_path, rows({}).head(0)), CARD)) == []
    assert list(read_events(csv(tmp_path, rows({}).head(0)), CARD, sort=True)) == []


def test_rows_are_counted_where_that_costs_nothing(tmp_path: Path) -> None:
    assert count_rows(parquet(tmp_path, rows({}, {}))) == 2
    assert count_rows(csv(tmp_path, rows({}, {}))) is None


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "days.parquet"
    write_events(path, simulate(SimulatorOptions(customers=5_000, terminals=100, days=40)), CARD)
    sizes = [len(batch) for batch in read_events(path, CARD)]

    assert sum(sizes) > 5 * datasets.CHUNK_ROWS
    assert max(sizes) <= datasets.CHUNK_ROWS


@pytest.mark.slow
def test_the_handbook_file_is_read_whole() -> None:
    folder = os.environ.get("FRAUDSTREAM_DATA")
    if not folder:
        pytest.skip("proof not made: FRAUDSTREAM_DATA names no folder with handbook.parquet")
    path = Path(folder) / "handbook.parquet"
    batches = list(read_events(path, load_schema("handbook")))
    scenario = np.concatenate([batch.scenario for batch in batches if batch.scenario is not None])

    assert sum(map(len, batches)) == count_rows(path) == 1_754_155
    assert sum(int(batch.is_fraud.sum()) for batch in batches) == 14_681
    assert np.bincount(scenario).tolist() == [1_739_474, 973, 9_077, 4_631]
    assert pq.read_schema(path).field("TX_AMOUNT").type == pa.float64()
