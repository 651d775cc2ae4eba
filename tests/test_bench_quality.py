"""The benchmark of quality measures what it says: features, delays, resuming, tables."""

import json
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks.quality import handbook_features
from benchmarks.quality.__main__ import DOCUMENT, main, measure_again, run_rows
from benchmarks.quality.keys import row_key
from benchmarks.quality.online import Online
from benchmarks.quality.recovery import daily_log_loss, recovery
from benchmarks.quality.refitted import Fitted, Refitted
from benchmarks.quality.results import Results
from benchmarks.quality.rows import Row, all_rows, row_of
from benchmarks.quality.run import kept_of, quality_of, run_row
from benchmarks.quality.streams import STREAMS
from benchmarks.quality.summary import write_document
from benchmarks.quality.tables import Table, Truth
from models import MODELS
from pipeline.durations import DAY_MS, HOUR_MS
from pipeline.evaluation import Quality
from pipeline.features import FeatureKernel
from tests.proofs import not_made

TINY = STREAMS["tiny"]
START_MS = 1_522_540_800_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDSTREAM_BENCH_CACHE", str(tmp_path / "cache"))


def needs_bench(library: str) -> None:
    if find_spec(library) is None:
        not_made(f"{library} is not installed (uv sync --group bench)")


# The Handbook's features.


def plain_features(
    row: int, times: Any, customer: Any, terminal: Any, amounts: Any, fraud: Any, delay: int
) -> list[float]:
    """Compute one event's features as the Handbook says it, event by event."""
    now = times[row]
    found = [amounts[row], float((now // DAY_MS + 3) % 7 >= 5), float(now % DAY_MS // HOUR_MS <= 6)]
    for days in (1, 7, 30):
        own = [
            amounts[other]
            for other in range(row + 1)
            if customer[other] == customer[row] and times[other] > now - days * DAY_MS
        ]
        found += [len(own), sum(own) / len(own)]
    for days in (1, 7, 30):
        there = [
            fraud[other]
            for other in range(len(times))
            if terminal[other] == terminal[row]
            and now - delay - days * DAY_MS < times[other]
            and (times[other] <= now - delay if delay else times[other] < now)
        ]
        found += [len(there), sum(there) / len(there) if there else 0.0]
    return found


@pytest.mark.parametrize("delay_days", [0, 1, 7])
def test_the_features_are_those_of_the_handbook(delay_days: int) -> None:
    chance = np.random.default_rng(3)
    count = 1_500
    times = START_MS + np.sort(chance.integers(0, 60 * DAY_MS, count))
    times[100:110] = times[100]
    customer, terminal = chance.integers(0, 12, count), chance.integers(0, 9, count)
    amounts = chance.integers(0, 300, count) / 2
    fraud = (chance.random(count) < 0.2).astype(np.int8)
    delay = delay_days * DAY_MS

    found = handbook_features.features(times, customer, terminal, amounts, fraud, delay_ms=delay)

    for row in [0, 1, 99, 105, 109, *chance.integers(0, count, 60).tolist(), count - 1]:
        plain = plain_features(row, times, customer, terminal, amounts, fraud, delay)
        assert found[row] == pytest.approx(plain, rel=1e-6)


# No rival sees a label before it is known.


def table_of(folder: Path, is_fraud: NDArray[np.int8], times: NDArray[np.int64]) -> Table:
    rows = np.random.default_rng(5).random((len(times), 2)).astype(np.float32)
    rows.tofile(folder / "features")
    none = np.zeros(len(times), dtype=np.int64)
    truth = Truth(is_fraud, times, none, none)
    return Table(folder / "features", ("a", "b"), truth, 7 * DAY_MS)


def mean_of_labels(features: NDArray[np.float32], is_fraud: NDArray[np.int8]) -> Fitted:
    return lambda rows: np.full(len(rows), is_fraud.mean() + len(is_fraud))


class Counting:
    """A learner whose score is what it was taught."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._taught = 0.0

    def learn(self, rows: NDArray[np.float32], is_fraud: NDArray[np.int8]) -> None:
        """Add labels up."""
        self._taught += len(rows) + 0.001 * float(is_fraud.sum())

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Say what was taught."""
        return np.full(len(rows), self._taught)


@pytest.mark.parametrize(
    "rival",
    [Refitted(mean_of_labels, 1, 30), Refitted(mean_of_labels, 7, 7), Online(Counting)],
    ids=["daily", "weekly", "online"],
)
def test_a_score_depends_on_no_label_that_was_not_known(tmp_path: Path, rival: Any) -> None:
    chance = np.random.default_rng(4)
    times = START_MS + np.sort(chance.integers(0, 40 * DAY_MS, 3_000))
    fraud = (chance.random(3_000) < 0.3).astype(np.int8)
    cut = START_MS + 20 * DAY_MS
    other = np.where(times >= cut, 1 - fraud, fraud).astype(np.int8)
    scores, changed = (
        rival.run(table_of(tmp_path, labels, times), 3_000, lambda *_: None)
        for labels in (fraud, other)
    )

    same = times < cut + 7 * DAY_MS
    assert np.array_equal(scores[same], changed[same])
    assert not np.array_equal(scores[~same], changed[~same])
    assert np.array_equal(scores[:500], rival.run(table_of(tmp_path, fraud, times), 500, print))


def test_an_online_rival_learns_each_label_once_when_it_is_known(tmp_path: Path) -> None:
    times = START_MS + np.arange(0, 20 * DAY_MS, 6 * HOUR_MS)
    table = table_of(tmp_path, np.zeros(len(times), dtype=np.int8), times)

    scores = Online(Counting).run(table, len(times), lambda *_: None)

    assert scores.tolist() == [table.known_at(int(time)) for time in times]


# Rows.


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"tiny-7d-replay-{model}" for model in sorted(MODELS)),
        "tiny-7d-handbook-river",
        "tiny-7d-handbook-forest",
        "tiny-7d-own-river",
        "tiny-1d-loop-additive",
    ],
)
def test_a_row_is_run_and_measured(name: str) -> None:
    row = row_of(name)
    found = run_row(row)

    assert 3_000 < found["events"] < 5_000
    assert found["average_precision"] > 2 * found["frauds"] / found["events"]
    assert found["cpu_seconds"] > 0
    assert found["memory_mb"] > 50
    assert (found.get("value_detected", 0.0) > 0.5) == (row.kind == "loop")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("lightgbm", "tiny-7d-own-lightgbm-weekly-30d"),
        ("lightgbm", "tiny-1d-loop-lightgbm-weekly-30d"),
        ("xgboost", "tiny-7d-handbook-xgboost-daily-7d"),
        ("vowpalwabbit", "tiny-7d-handbook-vw-pairs"),
    ],
)
def test_a_row_of_another_library_is_run_and_measured(library: str, name: str) -> None:
    needs_bench(library)
    found = run_row(row_of(name))

    assert found["average_precision"] > 2 * found["frauds"] / found["events"]
    assert "weekly" not in MODELS


def test_a_replayed_row_is_what_the_replay_command_shows(tmp_path: Path) -> None:
    from pipeline.cli import cli  # noqa: PLC0415
    from producers.writing import write_events  # noqa: PLC0415

    write_events(tmp_path / "tiny.parquet", TINY.events(), TINY.schema)
    options = ["--schema", "card", "--label-delay", "7d", "--start", "2018-04-15", "--json"]
    ended = CliRunner().invoke(cli, ["replay", str(tmp_path / "tiny.parquet"), *options])

    found = run_row(Row("replay", "tiny", "additive"))
    shown = json.loads(ended.stdout)["models"]["additive"]
    names = [field.name for field in fields(Quality)]
    assert {name: shown[name] for name in names} == {name: found[name] for name in names}


def test_the_table_of_our_features_is_what_the_engine_decided_on() -> None:
    from benchmarks.quality.tables import table_of as made  # noqa: PLC0415

    table = made("tiny", "own", 7, "k")

    assert table.names == FeatureKernel(TINY.schema).names
    assert table.rows(0, len(table)).shape == (len(table), len(table.names))
    assert made("tiny", "own", 7, "k").rows(5, 6).tolist() != [[0.0] * len(table.names)]


def test_the_cost_is_given_by_step() -> None:
    found = run_row(Row("cost", "tiny", "additive"))

    assert set(found["us_per_event"]) >= {
        "profiles",
        "features",
        "score, with contributions",
        "learn",
    }
    assert found["events_per_second"] > 100


# Resuming, measuring again, the document.


@pytest.mark.slow
def test_a_row_that_is_done_is_skipped_until_its_key_changes(tmp_path: Path) -> None:
    rows, results = [row_of("tiny-7d-replay-additive")], Results(tmp_path / "results")

    assert run_rows(rows, results) == []
    path = tmp_path / "results/tiny-7d-replay-additive.json"
    record = json.loads(path.read_text())
    assert record["key"] == row_key(rows[0])
    path.write_text(json.dumps(record | {"mark": 1}))
    run_rows(rows, results)
    assert json.loads(path.read_text())["mark"] == 1
    path.write_text(json.dumps(record | {"mark": 1, "key": "other"}))
    run_rows(rows, results)
    assert "mark" not in json.loads(path.read_text())


def test_a_row_that_fails_says_why_in_a_line_and_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = run_rows([Row("replay", "tiny", "nothing")], Results(tmp_path))

    assert failed == ["tiny-7d-replay-nothing"]
    assert capfd.readouterr().err.splitlines()[-1].startswith("Error: no model 'nothing'")


def test_kept_scores_are_measured_again(tmp_path: Path) -> None:
    row, results = Row("replay", "tiny", "additive"), Results(tmp_path)
    found = run_row(row)
    results.save(row.name, row_key(row), found | {"average_precision": 9.0}, seconds=1.0)
    assert kept_of(row, row_key(row)).is_file()

    measure_again([row], results)

    record = results.load(row.name)
    assert record is not None
    assert record["result"]["average_precision"] == pytest.approx(found["average_precision"], 1e-5)


def test_the_key_depends_on_the_options_and_not_on_other_rows() -> None:
    row = Row("handbook", "handbook", "river")

    assert row_key(row) == row_key(replace(row))
    assert row_key(row) != row_key(replace(row, delay_days=1))


def test_every_kind_of_row_has_a_place_in_the_document(tmp_path: Path) -> None:
    results, document = Results(tmp_path / "results"), tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    for place, row in enumerate(all_rows()):
        quality = {"average_precision": place / 1000, "log_loss": 0.1, "cpu_seconds": 1.0 + place}
        loop = dict.fromkeys(
            ("frauds", "frauds_declined", "frauds_reviewed", "frauds_missed", "false_declines"), 1
        ) | {"value_detected": 0.5, "alerts_reviewed": 2}
        change = {
            "level_before": 0.1, "log_loss_after": 0.2, "days_to_recover": None,
            "excess_log_loss_days": 0.3,
        }  # fmt: skip
        cost = {"us_per_event": {"learn": 2.0}, "events_per_second": 1e5}
        results.save(row.name, "k", quality | loop | cost | {"recovery": change}, seconds=1)

    write_document(document, results)
    text = document.read_text(encoding="utf-8")
    assert "not made yet" not in text
    assert "| LightGBM refitted weekly on 30 days | Handbook's 15 | 30 |" in text
    assert "never" in text
    assert "- handbook, labels after 30 days, average precision: LightGBM refitted weekly" in text
    assert "- loop, log loss" not in text
    write_document(document, results)
    assert document.read_text(encoding="utf-8") == text


def test_the_rows_are_listed_with_their_minutes(tmp_path: Path) -> None:
    ended = CliRunner().invoke(main, ["--list", "--rows", "drift-*", "--folder", str(tmp_path)])

    assert ended.exit_code == 0
    assert "min  drift-7d-replay-additive" in ended.output
    assert "handbook-" not in ended.output


def test_a_name_of_no_row_is_refused() -> None:
    with pytest.raises(Exception, match="no row 'handbook-7d-replay-nothing'"):
        row_of("handbook-7d-replay-nothing")


# Recovery.


def test_recovery_is_the_end_of_the_first_week_at_the_level() -> None:
    daily = np.array([0.02] * 30 + [0.08] * 10 + [0.02] * 30)

    found = recovery(daily, change=30)

    assert found["days_to_recover"] == 17
    assert found["excess_log_loss_days"] == pytest.approx(0.6)
    assert recovery(np.array([0.02] * 30 + [0.08] * 30), change=30)["days_to_recover"] is None


def test_losses_are_averaged_by_day() -> None:
    times = START_MS + np.array([0, HOUR_MS, DAY_MS])

    daily = daily_log_loss(np.array([0.5, 0.5, 0.25]), np.array([1, 0, 1], dtype=np.int8), times)

    assert daily.tolist() == pytest.approx([np.log(2), np.log(4)])


def test_what_is_measured_is_the_judged_period() -> None:
    times = START_MS + np.arange(0, 40 * DAY_MS, HOUR_MS)
    fraud = (np.arange(len(times)) % 9 == 0).astype(np.int8)
    none = np.zeros(len(times), dtype=np.int64)
    truth = Truth(fraud, times, none, none)

    found = quality_of(Row("own", "tiny", "river"), np.full(len(times), 0.5), truth)

    assert found["events"] == 26 * 24
