"""A file of the past as steps: when labels are known, what is set aside, that it repeats."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.errors import DataError
from pipeline.events import Label, LabelDecoder
from pipeline.history import HistoryStep
from pipeline.keys import init_keys
from pipeline.partitioner import partition_of
from pipeline.schema import parse_schema
from pipeline.transactions import TransactionDecoder
from producers.feed import limited
from producers.history import History, HistoryOptions
from producers.simulator import SimulatorOptions, simulate
from producers.tokens import Tokeniser
from producers.writing import write_events
from tests.card_numbers import CARDS, SCHEMA_TEXT
from tests.strategies import CARD

MIDNIGHT = "2026-11-01T"


def row(number: int, time: str, **changes: object) -> dict[str, object]:
    return {
        "transaction_id": f"t{number}",
        "event_time": f"{MIDNIGHT}{time}:00Z",
        "card_id": f"c{number % 3}",
        "terminal_id": "m1",
        "amount": "9.50",
        "is_fraud": number % 2,
        **changes,
    }


def written(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def history(path: Path, *, partitions: int = 1, chunk: int = 1_024, **changes: object) -> History:
    options = HistoryOptions(**{"delay_ms": HOUR_MS, **changes})  # type: ignore[arg-type]
    return History(path, CARD, options, partitions=partitions, chunk_events=chunk)


def labels_of(step: HistoryStep) -> list[Label]:
    found = [
        LabelDecoder(CARD).decode_one(record.value)
        for records in step.labels.values()
        for record in records
    ]
    assert all(isinstance(label, Label) for label in found)
    return [label for label in found if isinstance(label, Label)]


def ids_of(step: HistoryStep) -> list[str]:
    values = [r.value for chunk in step.chunks for records in chunk.values() for r in records]
    batch, _, rejected = TransactionDecoder(CARD).decode(values)
    assert rejected == []
    return batch.transaction_id


def test_labels_are_given_before_the_first_step_that_begins_after_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [row(1, "10:10"), row(2, "11:05"), row(3, "14:20")])

    steps = list(history(path).steps())

    assert [ids_of(step) for step in steps] == [["t1"], ["t2"], ["t3"], []]
    said = [[label.transaction_id for label in labels_of(step)] for step in steps]
    # Known at 11:10, 12:05 and 15:20: the first two before the hour of 14:00, the last never here.
    assert said == [[], [], ["t1", "t2"], []]


def test_the_last_step_gives_what_is_known_at_the_end_or_everything(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [row(1, "10:10"), row(2, "11:15"), row(3, "11:20")])
    known, to_end = history(path), history(path, to_end=True)

    assert [label.label_id for label in labels_of(list(known.steps())[-1])] == ["l-t1"]
    last = labels_of(list(to_end.steps())[-1])
    assert [label.label_id for label in last] == ["l-t1", "l-t2", "l-t3"]
    assert (known.waiting, to_end.waiting) == (2, 0)


def test_a_column_says_when_labels_came(tmp_path: Path) -> None:
    rows = [
        row(1, "10:00", told="2026-11-01T10:30:00Z"),
        row(2, "10:05", told=""),
        # Known on the day, which began before the event.
        row(3, "10:10", told="2026-11-01"),
        row(4, "10:15", told="some day"),
        row(5, "18:00", told=""),
    ]
    found = history(written(tmp_path / "a.csv", rows), label_time="told")

    labels = [label for step in found.steps() for label in labels_of(step)]

    minutes = {item.transaction_id: item.label_time_ms // 60_000 % 1_440 for item in labels}
    assert minutes == {"t1": 630, "t2": 665, "t3": 610}
    assert [(item.row, item.what) for item in found.rejects] == [(4, "label")]
    assert (found.accepted, found.moved, found.waiting) == (5, 1, 1)


def test_labels_may_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [row(1, "10:00"), row(2, "10:05"), row(3, "12:10")])
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "transaction_id,is_fraud,told\nt2,1,2026-11-01T11:00:00Z\nt9,1,\nt2,0,1793534400000\n"
        "t1,perhaps,\nt1,1,\n"
    )

    found = history(path, labels_file=labels, label_time="told", source="analyst")
    said = [label for step in found.steps() for label in labels_of(step)]

    assert [(item.label_id, item.is_fraud, item.source) for item in said] == [
        ("l-t1", True, "analyst"),
        ("l-t2", True, "analyst"),
        ("l1-t2", False, "analyst"),
    ]
    assert [(item.file, item.row) for item in found.rejects] == [
        ("labels.csv", 4),
        ("labels.csv", 2),
    ]


def test_bad_rows_are_set_aside_with_their_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    rows = [row(number, f"{number // 60:02}:{number % 60:02}") for number in range(200)]
    rows[17]["amount"] = "nine"
    rows[40]["event_time"] = "yesterday"
    rows[150]["card_id"] = "4111111111111111"
    found = history(written(tmp_path / "a.csv", rows))

    given = [key for step in found.steps() for key in ids_of(step)]

    assert [item.row for item in found.rejects] == [18, 41, 151]
    assert "nine" in found.rejects[0].problem
    assert "row 18" in found.rejects[0].problem
    assert "4111" not in found.rejects[2].problem
    assert len(given) == 197
    assert [found.row_of(place) for place in (0, 17, 196)] == [1, 19, 200]


def test_a_file_of_another_kind_ends_the_reading(tmp_path: Path) -> None:
    rows = [row(number, "10:00", amount="nine") for number in range(20)]
    found = history(written(tmp_path / "a.csv", rows), rejects_max=5)

    with pytest.raises(DataError, match="more than 5 rows do not fit"):
        list(found.steps())


def test_disorder_is_refused_or_mended(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", [row(1, "12:00"), row(2, "10:00"), row(3, "11:00")])

    with pytest.raises(DataError, match="sort"):
        list(history(path).steps())
    found = history(path, sort=True)
    assert [key for step in found.steps() for key in ids_of(step)] == ["t2", "t3", "t1"]
    assert [found.row_of(place) for place in range(3)] == [2, 3, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_reading_gives_the_same_records_with_the_same_numbers(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    world = SimulatorOptions(customers=40, terminals=20, days=1_000)
    write_events(path, limited(simulate(world), 3_000), CARD)

    first, second = (
        list(history(path, partitions=3, chunk=50, delay_ms=DAY_MS).steps()) for _ in range(2)
    )

    assert first == second
    assert sum(step.events for step in first) == 3_000
    records = [(p, r) for s in first for chunk in s.chunks for p, rs in chunk.items() for r in rs]
    assert sorted(record.offset for _, record in records) == list(range(3_000))
    assert all(partition_of(record.key, 3) == p for p, record in records)
    for p in range(3):
        numbers = [r.offset for step in first for r in step.labels.get(p, [])]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 100
        places = [record.offset for partition, record in records if partition == p]
        assert places == sorted(places)


def test_card_numbers_become_the_tokens_of_their_time(tmp_path: Path) -> None:
    init_keys(tmp_path / "keys", ["card-tokens"])
    tokeniser = Tokeniser(tmp_path / "keys")
    rows = [row(n, f"1{n}:00", card_number=CARDS[n]) for n in range(2)]
    path = written(tmp_path / "past.csv", rows)
    schema = parse_schema(SCHEMA_TEXT, place="test")
    options = HistoryOptions(delay_ms=HOUR_MS, to_end=True)

    found = list(History(path, schema, options, partitions=1, tokeniser=tokeniser).steps())

    wanted = [tokeniser.token(number, 0) for number in CARDS[:2]]
    events = [r for step in found for chunk in step.chunks for r in chunk.get(0, ())]
    labels = [r for step in found for r in step.labels.get(0, ())]
    assert [item.key.decode() for item in events] == wanted
    assert [item.key.decode() for item in labels] == wanted
    assert not any(number.encode() in item.value for item in events for number in CARDS[:2])
