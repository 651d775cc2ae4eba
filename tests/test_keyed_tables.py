"""Any keyed table is a stream: with numbers, without an amount, with ids of every kind."""

import csv
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.errors import DataError, SchemaError
from pipeline.events import LabelDecoder, OutcomeDecoder, Transactions
from pipeline.features import FeatureKernel, feature_table, unusual_amounts
from pipeline.profiles import LearnedProfiles, MemoryProfiles
from pipeline.schema import Schema, load_schema, parse_schema
from pipeline.transactions import TransactionDecoder
from producers.batch import EventBatch, joined
from producers.datasets import read_events
from producers.encoding import LabelEncoder, TransactionEncoder
from producers.writing import write_events

TIME_MS = 1_793_534_400_000
DOCUMENT = Path(__file__).parent.parent / "docs/schemas.md"

TABLE = """
name = "claims"
version = 1
[event]
id = "claim"
time = "filed"
amount = "amount"
currency_default = "EUR"
[[entity]]
name = "holder"
field = "policy"
[[entity]]
name = "garage"
field = "garage"
[[category]]
name = "zip"
field = "plz"
[[number]]
name = "age"
field = "car age"
[[number]]
name = "distance"
field = "class"
[label]
field = "fraud"
"""
CLAIMS = parse_schema(TABLE, place="claims.toml")
NO_AMOUNT = parse_schema(
    TABLE.replace('amount = "amount"\ncurrency_default = "EUR"', ""), place="claims.toml"
)
PHISHING = load_schema("phishing")
FRAME = {
    "claim": [1, 2, 3],
    "filed": [TIME_MS, TIME_MS + 1, TIME_MS + 2],
    "policy": [11, 11, 12],
    "garage": ["g1", "g2", "g1"],
    "plz": [8001, 8002, 8001],
    "amount": [9.5, 10.0, 0.0],
    "car age": [1, None, 3],
    "class": [0.1, -2.5e10, np.nan],
    "fraud": [0, 1, 0],
}


def parquet(folder: Path, **changes: object) -> Path:
    path = folder / "claims.parquet"
    pd.DataFrame(FRAME | changes).to_parquet(path, index=False)
    return path


def read(path: Path, schema: Schema = CLAIMS) -> EventBatch:
    return joined(list(read_events(path, schema)))


def of_site(count: int) -> EventBatch:
    ids = [f"s{row}" for row in range(count)]
    return EventBatch(
        ids, TIME_MS + np.arange(count), (ids,), np.zeros(count, dtype=np.int64), [""] * count,
        (), np.full((count, 9), 0.5, dtype=np.float32), np.zeros(count, dtype=np.int8),
    )  # fmt: skip


def features_of(schema: Schema, batch: Transactions) -> pd.DataFrame:
    kernel, learned = FeatureKernel(schema), LearnedProfiles(schema)
    view = MemoryProfiles(schema, learned).open(batch)
    return pd.DataFrame(kernel.read_and_record(batch, view), columns=list(kernel.names))


def same(found: Transactions, expected: Transactions) -> bool:
    return (
        (found.transaction_id, found.keys) == (expected.transaction_id, expected.keys)
        and (found.currency, found.event_time_ms.tolist())
        == (expected.currency, expected.event_time_ms.tolist())
        and found.amount_minor.tolist() == expected.amount_minor.tolist()
        and np.array_equal(found.numbers, expected.numbers, equal_nan=True)
    )


def test_whole_numbers_are_ids_and_categories_and_gaps_are_no_numbers(tmp_path: Path) -> None:
    batch = read(parquet(tmp_path))

    assert batch.transaction_id == ["1", "2", "3"]
    assert batch.keys == (["11", "11", "12"], ["g1", "g2", "g1"])
    assert batch.categories == (["8001", "8002", "8001"],)
    assert batch.numbers.dtype == np.float32
    expected = np.array([[1, 0.1], [np.nan, -2.5e10], [3, np.nan]], dtype=np.float32)
    assert np.array_equal(batch.numbers, expected, equal_nan=True)


@pytest.mark.parametrize("schema", [CLAIMS, NO_AMOUNT], ids=["amount", "no amount"])
@pytest.mark.parametrize("name", ["again.csv", "again.parquet"])
def test_a_table_is_written_read_encoded_and_decoded_to_the_same(
    tmp_path: Path, schema: Schema, name: str
) -> None:
    batch = read(parquet(tmp_path), schema)
    write_events(tmp_path / name, [batch], schema)

    values = TransactionEncoder(schema).encode(batch)
    found, _, rejected = TransactionDecoder(schema).decode(values)

    assert not rejected
    assert same(found, batch.transactions())
    assert same(read(tmp_path / name, schema).transactions(), batch.transactions())


@pytest.mark.parametrize("value", [True, "1", [1], 1e39, -1e39])
def test_a_number_of_an_event_is_a_json_number_or_null(value: object) -> None:
    event = {"claim": "1", "filed": TIME_MS, "policy": "1", "garage": "g", "amount": 1}
    event |= {"car age": None, "class": value}

    _, rows, rejected = TransactionDecoder(CLAIMS).decode([json.dumps(event).encode()])

    assert rows == []
    assert rejected[0].problem.place == "$.class"


def test_a_number_may_be_missing_or_whole() -> None:
    event = {"claim": "1", "filed": TIME_MS, "policy": "1", "garage": "g", "amount": 1, "class": 3}

    found, _, _ = TransactionDecoder(CLAIMS).decode([json.dumps(event).encode()])

    assert np.isnan(found.numbers[0, 0])
    assert found.numbers[0, 1] == 3.0


@pytest.mark.parametrize("wrong", ["many", "inf", "1e39", "nan"])
def test_a_number_of_a_file_that_is_none_is_named(tmp_path: Path, wrong: str) -> None:
    path = parquet(tmp_path, **{"class": ["1", wrong, "2"]})

    with pytest.raises(DataError, match=r"row 2, column 'class': expected a number, got"):
        read(path)


def test_numbers_are_the_last_features_and_have_their_own_reason_codes() -> None:
    table = feature_table(CLAIMS)

    assert [feature.name for feature in table][-2:] == ["age", "distance"]
    assert table[-1].reason_code == "DISTANCE_UNUSUAL"


def test_numbers_are_features_as_they_stand(tmp_path: Path) -> None:
    batch = read(parquet(tmp_path)).transactions()
    features = features_of(CLAIMS, batch)

    assert np.array_equal(features[["age", "distance"]], batch.numbers, equal_nan=True)


def test_without_an_amount_the_features_are_those_that_no_amount_changes(tmp_path: Path) -> None:
    some, other = (
        features_of(CLAIMS, read(parquet(tmp_path, amount=amounts)).transactions())
        for amounts in ([5.0, 7.0, 500.0], [800.0, 1.0, 2.0])
    )
    without = features_of(NO_AMOUNT, read(parquet(tmp_path), NO_AMOUNT).transactions())

    changed = [name for name in some if not some[name].equals(other[name])]
    assert changed
    assert not set(changed) & set(without)
    assert all(some[name].equals(without[name]) for name in without)
    assert not [item for item in feature_table(NO_AMOUNT) if "AMOUNT" in item.reason_code]


def test_the_name_of_a_feature_is_not_free_for_a_number() -> None:
    schema = parse_schema(TABLE.replace('name = "age"', 'name = "hour"'), place="claims.toml")

    with pytest.raises(SchemaError, match="the name of number 'hour' is that of a feature"):
        feature_table(schema)


def test_a_currency_needs_an_amount() -> None:
    with pytest.raises(SchemaError, match="has a currency, but no amount"):
        parse_schema(TABLE.replace('amount = "amount"', ""), place="claims.toml")


def test_events_without_an_amount_are_in_no_currency(tmp_path: Path) -> None:
    batch = read(parquet(tmp_path), NO_AMOUNT)

    assert set(batch.currency) == {""}
    assert batch.amount_minor.tolist() == [0, 0, 0]


def test_the_event_id_may_be_the_partition_key(tmp_path: Path) -> None:
    batch = of_site(3)
    write_events(tmp_path / "sites.parquet", [batch], PHISHING)
    values = TransactionEncoder(PHISHING).encode(batch)
    found, _, _ = TransactionDecoder(PHISHING).decode(values)

    assert found.keys == (["s0", "s1", "s2"],)
    assert same(read(tmp_path / "sites.parquet", PHISHING).transactions(), found)
    assert list(json.loads(values[0]))[:3] == ["site_id", "event_time", "empty_server_form_handler"]


def test_labels_and_outcomes_of_events_keyed_by_their_id_name_it_once() -> None:
    value = LabelEncoder(PHISHING).encode(["s1"], ["s1"], [True], [TIME_MS])[0]
    outcome = {"site_id": "s1", "outcome": "settled", "outcome_time": TIME_MS}
    label = LabelDecoder(PHISHING).decode_one(value)
    found = OutcomeDecoder(PHISHING).decode_one(json.dumps(outcome).encode())

    assert (getattr(label, "transaction_id", None), getattr(label, "key", None)) == ("s1", "s1")
    assert (getattr(found, "transaction_id", None), getattr(found, "key", None)) == ("s1", "s1")


def test_a_key_that_never_comes_twice_has_no_history_in_the_features() -> None:
    names = [feature.name for feature in feature_table(PHISHING)]

    assert names[-9:] == [number.name for number in PHISHING.numbers]
    assert not [name for name in names if name.startswith("site_")]


def test_the_document_shows_a_schema_and_a_file_that_replay(tmp_path: Path) -> None:
    blocks = re.findall(r"```(toml|csv)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for kind in ("toml", "csv"):
        text = "\n".join(text for found, text in blocks if found == kind)
        (tmp_path / f"orders.{kind}").write_text(text, encoding="utf-8")
    schema = load_schema(str(tmp_path / "orders.toml"))
    columns = next(csv.reader(StringIO(dict(blocks)["csv"])))

    arguments = ["replay", str(tmp_path / "orders.csv"), "--schema", str(tmp_path / "orders.toml")]
    ended = CliRunner().invoke(cli, [*arguments, "--label-delay", "7d"])

    assert ended.exit_code == 0, ended.output
    assert set(columns) == {*schema.event_fields, schema.label}


@pytest.mark.parametrize("schema", [NO_AMOUNT, PHISHING], ids=["no amount", "no key twice"])
def test_no_amount_is_unusual_where_there_are_no_habits(schema: Schema) -> None:
    features = np.full((3, len(feature_table(schema))), 1e6, dtype=np.float32)

    assert unusual_amounts(features, schema).tolist() == [0, 0, 0]
