"""What the present system said goes with an event to its decision, and changes nothing else."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.actions import ACTIONS, Action
from pipeline.engine import Decisions
from pipeline.errors import DataError, SchemaError
from pipeline.events import Transactions
from pipeline.features import feature_table
from pipeline.feedback import MemoryWaiting, went_through
from pipeline.incumbent import Incumbent, IncumbentFields, IncumbentReader
from pipeline.memory_ids import MemoryIds
from pipeline.records import DecisionRecord, decode_decisions, encode_record
from pipeline.replay import Replay, ReplayOptions
from pipeline.schema import Schema, parse_schema
from pipeline.settings import Settings
from pipeline.transactions import TransactionDecoder
from producers.batch import EventBatch, joined
from producers.datasets import read_events
from producers.encoding import TransactionEncoder
from producers.present_system import with_present_system
from producers.simulator import SimulatorOptions, simulate
from producers.writing import write_events
from tests.strategies import CARD, MONDAY_MS, decision, event_bytes

POINTS = IncumbentFields(
    "points", "verdict", (0, 999), {"approve": ["ACCEPT", "OK"], "decline": ["REJECT"]}
)
WORDS = replace(CARD, incumbent=POINTS)
GOOD_IS_HIGH = replace(CARD, incumbent=IncumbentFields("points", "verdict", (999, 0)))
WORLD = SimulatorOptions(customers=60, terminals=80, days=5)
DAY_MS = 86_400_000


def read(schema: Schema, **fields: object) -> Incumbent | None:
    batch, _, rejected = TransactionDecoder(schema).decode([event_bytes(**fields)])
    assert not rejected
    return batch.incumbents[0] if batch.incumbents else None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, None),
        ({"points": 999}, Incumbent(1.0)),
        ({"points": 0, "verdict": "REJECT"}, Incumbent(0.0, "decline")),
        ({"verdict": "OK"}, Incumbent(None, "approve")),
        ({"points": None, "verdict": None}, None),
        ({"points": 999.5}, Incumbent(unread=("score",))),
        ({"points": -1}, Incumbent(unread=("score",))),
        ({"points": "500"}, Incumbent(unread=("score",))),
        ({"points": True}, Incumbent(unread=("score",))),
        ({"points": [1], "verdict": {"a": "REJECT"}}, Incumbent(unread=("score", "action"))),
        ({"points": 333, "verdict": "reject"}, Incumbent(333 / 999, unread=("action",))),
        ({"points": 333, "verdict": "REJECT:\\"}, Incumbent(333 / 999, unread=("action",))),
        ({"verdict": ""}, Incumbent(unread=("action",))),
    ],
)
def test_what_does_not_fit_is_left_out_and_named(
    fields: dict[str, object], said: Incumbent | None
) -> None:
    assert read(WORDS, **fields) == said


def test_a_scale_may_run_the_other_way() -> None:
    assert str(read(GOOD_IS_HIGH, points=999)) == str(Incumbent(0.0))
    assert read(GOOD_IS_HIGH, points=0) == Incumbent(1.0)


@pytest.mark.parametrize(
    "value",
    [
        event_bytes(points="x").replace(b'"x"', b"[" * 9 + b"]" * 9),
        event_bytes(points=5)[:-1] + b', "points": 6}',
        event_bytes(points="x").replace(b'"x"', b'{"a": 1, "a": 2}'),
    ],
)
def test_an_incumbent_field_hides_no_depth_and_no_key_that_comes_twice(value: bytes) -> None:
    _, _, rejected = TransactionDecoder(WORDS).decode([value])

    assert [item.problem.reason for item in rejected] == ["malformed"]


def test_events_without_what_it_said_are_as_ever() -> None:
    batch, _, _ = TransactionDecoder(CARD).decode([event_bytes(), event_bytes()])

    assert batch.incumbents == ()


INCUMBENTS = st.builds(
    Incumbent,
    st.none() | st.integers(0, 999).map(lambda points: points / 999),
    st.none() | st.sampled_from(["approve", "decline"]),
)


def batch_of(incumbents: Sequence[Incumbent | None]) -> EventBatch:
    count = len(incumbents)
    return EventBatch(
        [f"t{row}" for row in range(count)],
        MONDAY_MS + np.arange(count),
        (["c1"] * count, ["m1"] * count),
        np.full(count, 950),
        ["EUR"] * count,
        (),
        np.empty((count, 0), np.float32),
        np.zeros(count, np.int8),
        incumbents=list(incumbents),
    )


def without_empty(incumbents: Sequence[Incumbent | None]) -> list[Incumbent | None]:
    return [item if item != Incumbent() else None for item in incumbents]


@given(st.lists(st.none() | INCUMBENTS, min_size=1, max_size=8))
def test_what_it_said_survives_the_wire(incumbents: list[Incumbent | None]) -> None:
    values = TransactionEncoder(WORDS).encode(batch_of(incumbents))
    decoded, _, rejected = TransactionDecoder(WORDS).decode(values)

    assert not rejected
    found = decoded.incumbents or [None] * len(incumbents)
    assert list(found) == without_empty(incumbents)
    assert all(b"null" not in value for value in values)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("schema", [WORDS, CARD], ids=["words", "plain"])
def test_what_it_said_survives_a_file(tmp_path: Path, schema: Schema, suffix: str) -> None:
    path = tmp_path / f"day{suffix}"
    said = [Incumbent(333 / 999, "decline"), None, Incumbent(None, "approve"), Incumbent(1.0)]

    write_events(path, [batch_of(said)], schema, incumbents=True)

    assert list(joined(list(read_events(path, schema))).incumbents) == said


def test_a_file_needs_no_incumbent_columns(tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    write_events(path, [batch_of([None])], CARD)

    assert not next(read_events(path, CARD)).incumbents
    assert "incumbent" not in path.read_text()


@pytest.mark.parametrize(
    ("score", "action", "expected"),
    [
        ("1000", "OK", "row 1, column 'points': expected a number on the scale"),
        ("many", "OK", "row 1, column 'points': expected a number on the scale"),
        ("1", "Ok", "row 1, column 'verdict': expected one of ACCEPT, OK, REJECT, got 'Ok'"),
    ],
)
def test_a_file_with_a_value_that_does_not_fit_is_refused(
    tmp_path: Path, score: str, action: str, expected: str
) -> None:
    path = tmp_path / "day.csv"
    path.write_text(
        "transaction_id,event_time,card_id,terminal_id,amount,currency,is_fraud,points,verdict\n"
        f"t1,{MONDAY_MS},c1,m1,9.50,EUR,0,{score},{action}\n"
    )

    with pytest.raises(DataError, match=expected):
        next(read_events(path, WORDS))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("", "needs score, action or both"),
        ('score = "s"\nscale = [1, 1]', "two numbers that differ"),
        ('action = "a"\nactions = {approve = ["x"], decline = ["x"]}', "'x' is used twice"),
        ('action = "a"\nactions = {block = ["x"]}', "block"),
        ('action = "a"\nactions = {}', "name no word"),
        ('score = "card"', "'card' is used twice"),
        ('score = "s"\nweight = 1', "weight"),
    ],
)
def test_a_schema_whose_incumbent_contradicts_itself_is_refused(table: str, expected: str) -> None:
    text = f"""
        name = "one"
        version = 1
        event = {{id = "id", time = "time"}}
        entity = [{{name = "card", field = "card"}}]
        [incumbent]
        {table}
    """
    with pytest.raises(SchemaError, match=expected):
        parse_schema(text, place="one.toml")


def test_no_feature_knows_the_incumbent() -> None:
    assert feature_table(CARD) == feature_table(replace(CARD, incumbent=None))


class Kept:
    """All that a replay decided, as records."""

    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []

    def add(self, decisions: Decisions) -> None:
        self.records += [decisions.record(place) for place in range(len(decisions))]


def replayed(batches: Sequence[tuple[Transactions, np.ndarray]]) -> list[DecisionRecord]:  # type: ignore[type-arg]
    kept = Kept()
    run = Replay(CARD, Settings(), ReplayOptions(DAY_MS), decided=kept.add)
    run.run(batches, lambda result: None)
    return kept.records


def test_features_scores_and_actions_are_the_same_to_the_bit_whatever_it_said() -> None:
    days = [(day.transactions(), day.is_fraud) for day in simulate(WORLD)]
    # The frauds themselves as its score: a leak could not be missed.
    told = [
        (
            replace(
                events,
                incumbents=[Incumbent(float(fraud), ACTIONS[fraud * 2]) for fraud in is_fraud],
            ),
            is_fraud,
        )
        for events, is_fraud in days
    ]

    plain, known = replayed(days), replayed(told)

    assert {record.model_version for record in plain} > {"additive@0"}
    assert all(record.incumbent for record in known)
    empty = [
        DecisionRecord(**{**{f: getattr(r, f) for f in r.__struct_fields__}, "incumbent": None})
        for r in known
    ]
    assert list(map(encode_record, empty)) == list(map(encode_record, plain))


def test_a_decision_carries_what_it_said_and_leaves_out_what_it_did_not() -> None:
    plain, told = decision("t1"), decision("t1", incumbent=Incumbent(0.5, "review"))

    assert b"incumbent" not in encode_record(plain)
    assert json.loads(encode_record(told))["incumbent"] == {"score": 0.5, "action": "review"}
    assert list(decode_decisions([encode_record(told)])) == [told]


def test_a_transaction_that_comes_again_with_another_word_is_the_same_one() -> None:
    values = [event_bytes(points=5), event_bytes(points=900), event_bytes()]
    batch, _, _ = TransactionDecoder(WORDS).decode(values)

    found = MemoryIds(Settings()).sift(batch)

    assert (found.fresh.tolist(), found.duplicates, len(found.conflicts)) == ([0], 2, 0)
    assert batch.take(found.fresh).incumbents == [Incumbent(5 / 999)]


class Records:
    """Decisions that wait, as the engine would hand them over."""

    def __init__(self, record: DecisionRecord) -> None:
        self._record = record
        self.transaction_ids = [record.transaction_id]

    def record(self, place: int) -> DecisionRecord:
        return self._record


@pytest.mark.parametrize("incumbent", [None, *ACTIONS])
def test_what_the_incumbent_held_back_does_not_mature(incumbent: Action | None) -> None:
    said = None if incumbent is None else Incumbent(None, incumbent)
    waiting = MemoryWaiting(10)
    waiting.add(Records(decision("t1", incumbent=said)))

    matured = list(waiting.take_matured(MONDAY_MS + DAY_MS, DAY_MS))

    assert len(matured) == (incumbent in (None, "approve"))
    assert went_through("approve", "settled", incumbent)


def test_the_simulated_present_system_is_seeded_and_hides_what_it_declined() -> None:
    world = replace(WORLD, customers=300, fraud_scale=10.0)
    plain = joined(list(simulate(world)))
    first, again, other = (
        joined(list(with_present_system(simulate(world), seed=seed))) for seed in (7, 7, 8)
    )
    actions = [item.action for item in first.incumbents if item]
    declined = np.array(actions) == "decline"

    assert first.incumbents == again.incumbents != other.incumbents
    assert set(actions) == set(ACTIONS)
    assert (first.is_fraud[declined] == -1).all()
    assert (first.is_fraud[~declined] == plain.is_fraud[~declined]).all()
    assert first.transaction_id == plain.transaction_id


def test_a_score_is_written_as_it_came() -> None:
    reader = IncumbentReader(POINTS)

    for points in range(1000):
        assert reader.written_score(reader.ratio(points)) == points
