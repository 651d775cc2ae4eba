"""How the Handbook benchmark judges: what it counts as known, twice, or too far apart."""

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.accounting import distinct
from benchmarks.handbook import compare, main
from benchmarks.label_loop import label_loop
from benchmarks.topics import Decided, Examples, Labels
from benchmarks.truth import first_days
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.events import no_numbers
from producers.batch import EventBatch
from tests.proofs import DATA_VARIABLE

WANTED = "average precision is within 0.03 of replay's"


def decided(
    ids: list[str], partition: list[int], hours: list[float], version: list[int]
) -> Decided:
    rows = len(ids)
    times = (np.array(hours) * HOUR_MS).astype(np.int64)
    return Decided(
        transaction_id=np.array(ids, dtype=np.bytes_),
        partition=np.array(partition),
        event_time_ms=times,
        appended_ms=np.full(rows, 9_000),
        version=np.array(version),
        digest=np.array([hash(text) for text in ids]),
        scores={"additive": np.zeros(rows)},
    )


def examples(offsets: list[int], partition: list[int], hours: list[float]) -> Examples:
    times = (np.array(hours) * HOUR_MS).astype(np.int64)
    return Examples(
        label_id=np.array([f"l{offset}" for offset in offsets], dtype=np.bytes_),
        offset=np.array(offsets),
        partition=np.array(partition),
        event_time_ms=times,
        label_time_ms=times + 10 * HOUR_MS,
        appended_ms=np.full(len(offsets), 8_000),
        is_fraud=np.zeros(len(offsets), dtype=np.bool_),
        scores={},
    )


def labels(found: Examples) -> Labels:
    return Labels(found.label_id, np.full(len(found), 7_500))


def test_a_label_counts_at_the_first_decision_of_its_partition_that_learned_it() -> None:
    # Version 1 has learned the example at offset 0; partition 1 took it up later.
    decisions = decided(["a", "b", "c", "d"], [0, 0, 1, 1], [10, 11, 11, 13], [0, 1, 0, 1])
    found = examples([0], [1], [1.0])

    loop = label_loop(found, decisions, labels(found), beyond_ms=2 * HOUR_MS)

    assert loop.labels == 1
    assert loop.beyond_hours["max"] == pytest.approx(2.0)
    assert loop.delay_days["max"] == pytest.approx(0.5)
    assert loop.share_within == 1.0
    assert (loop.join_seconds["p50"], loop.adopt_seconds["p50"]) == (0.5, 1.0)


def test_labels_that_no_decision_knew_are_counted_apart() -> None:
    decisions = decided(["a", "b"], [0, 0], [10, 14], [0, 1])
    found = examples([0, 1], [0, 0], [1.0, 2.0])

    loop = label_loop(found, decisions, labels(found), beyond_ms=2 * HOUR_MS)

    assert (loop.labels, loop.without, loop.share_within) == (1, 1, 0.0)


def test_a_decision_published_again_is_repeated_and_a_different_one_conflicts() -> None:
    decisions = decided(["a", "b", "a", "b"], [0] * 4, [1, 2, 1, 2], [0] * 4)
    decisions.digest[3] += 1

    found = distinct(decisions)

    assert found.transaction_id.tolist() == [b"a", b"b"]
    assert (found.row.tolist(), found.repeated, found.conflicting) == ([0, 1], 2, 1)


@pytest.mark.parametrize(("live", "frauds", "expected"), [
    (0.75, 500, {WANTED: True}),
    (0.70, 500, {WANTED: False}),
    (0.70, 99, {}),
])  # fmt: skip
def test_average_precision_is_compared_where_there_are_frauds_enough(
    live: float, frauds: int, expected: dict[str, bool]
) -> None:
    found = {
        "quality": {"live": {"additive": {"frauds": frauds, "average_precision": live}}},
        "checks": {},
    }

    compare(found, {"additive": {"frauds": frauds, "average_precision": 0.76}})

    assert found["checks"] == expected


def test_days_begin_at_the_midnight_before_the_first_event() -> None:
    times = [int((day + 0.5) * DAY_MS) for day in range(5)]
    batch = EventBatch(
        [f"t{n}" for n in range(5)], np.array(times), (["c"] * 5,), np.zeros(5, dtype=np.int64),
        ["EUR"] * 5, (), no_numbers(5), np.zeros(5, dtype=np.int8),
    )  # fmt: skip

    taken = [part.transaction_id for part in first_days(iter([batch.slice(0, 2), batch]), 2)]

    assert taken == [["t0", "t1"], ["t0", "t1"]]


@pytest.mark.parametrize("folder", [None, "empty"])
def test_data_that_is_missing_is_one_line(
    folder: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    if folder:
        monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))

    ended = CliRunner().invoke(main, [])

    assert ended.exit_code == 1
    assert ended.output.count("\n") == 1
    assert "handbook.parquet" in ended.output
