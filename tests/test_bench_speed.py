"""The benchmark of speed runs, and says what it is asked for; how fast is for `make bench`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.__main__ import TITLES, chosen
from benchmarks.speed.compare import verdict
from benchmarks.speed.latency import quantiles
from benchmarks.speed.material import Material
from benchmarks.speed.place import OURS
from benchmarks.speed.results import FIGURES, RATIOS, figures, kept, load, save
from benchmarks.speed.summary import DOCUMENT, write_document
from pipeline.errors import SettingError

ROOT = Path(__file__).parent.parent


def rows(**values: float) -> dict[str, Any]:
    """Give results of the worker and the naive rival."""
    naive = {"events_per_second": 2_000.0, "events_per_cpu_second": 2_500.0}
    ours = {"events_per_second": 30_000.0, "events_per_cpu_second": 35_000.0} | values
    return kept({}, {"events": 10}, {"worker": [ours], "naive-faust": [naive]}, {})


@pytest.mark.integration
@pytest.mark.slow
def test_a_short_run_gives_its_figures_and_keeps_the_other_rows(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    save(out, kept({}, {}, {"plain-loop": [{"events_per_second": 1e5}]}, {}))
    command = [sys.executable, "-m", "benchmarks.speed", "--short", "--events", "2000", "--json"]

    done = subprocess.run(
        [*command, "--only", "worker,naive-faust,river", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert not done.returncode, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == []
    measured = {name for name, (row, _) in FIGURES.items() if row == "worker"}
    measured |= {"ratio_naive_faust", "ratio_river", "ratio_plain_loop"}
    assert not {name for name in measured if found[name] is None}
    assert found["worker_events_per_second"] > 0
    assert set(found) >= set(FIGURES) | set(RATIOS)
    assert "fraudstream worker" in done.stderr
    [worker] = json.loads(out.read_text())["rows"]["worker"]["rounds"]
    assert {"worker_peak_mb", "redis_cpu_us", "kafka_cpu_us", "trainer_cpu_us"} <= set(worker)


def test_every_figure_names_a_row() -> None:
    named = {row for row, _ in FIGURES.values()} | set(RATIOS.values())

    assert named <= set(TITLES) | {"replay-handbook"}


def test_rows_are_chosen_by_patterns_and_a_wrong_one_is_refused() -> None:
    assert [row.name for row in chosen("quix-*,worker")] == [
        "worker", "quix-at-least-once", "quix-exactly-once",
    ]  # fmt: skip
    with pytest.raises(SettingError, match="no row 'quick'"):
        chosen("worker,quick")


def test_a_row_that_failed_is_named_and_its_old_figures_go() -> None:
    before = rows()

    now = kept(before, {}, {}, {"worker": "it broke"})

    assert now["failed"] == {"worker": "it broke"}
    assert now["figures"]["worker_events_per_second"] is None
    assert "naive-faust" in now["rows"]


def test_results_of_another_machine_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    save(path, rows())
    assert load(path)["rows"]

    save(path, rows() | {"machine": {"processor": "another"}})

    assert load(path) == {}


def test_what_became_slower_beside_the_naive_rival_is_said() -> None:
    lines, is_worse = verdict(rows(), rows(events_per_cpu_second=28_000.0, worker_peak_mb=1.0))

    assert is_worse
    assert lines[0] == (
        "worker events a CPU second: 11.2 times the naive rival, was 14: 20 % worse"
    )
    assert verdict(rows(), rows()) == (["2 figures are as they were"], False)
    assert not verdict(rows(), rows(events_per_cpu_second=70_000.0))[1]
    # Figures of two runs say nothing of each other.
    mixed = kept(rows(), {"run": "a later one"}, {"worker": rows()["rows"]["worker"]["rounds"]}, {})
    assert verdict(rows(), mixed) == (["0 figures are as they were"], False)
    assert verdict({}, rows()) == (["nothing is committed yet to compare with"], False)


def test_latency_counts_from_the_moment_in_the_schedule() -> None:
    rate, began = 100, 1_000.0
    warm = 5.0
    events = round(rate * (warm + 1))
    ids = [key.encode() for key in Material(OURS, events).batch.transaction_id]
    moments = began + np.arange(events) / rate
    seen = [(float(at) + 0.010, [key]) for at, key in zip(moments, ids, strict=True)]
    # A decision that is published again later changes nothing, and the warm-up counts nothing.
    seen += [(began + 60, [ids[-1]])]
    seen[0] = (began + 4, seen[0][1])
    # One event is decided late.
    seen[-2] = (seen[-2][0] + 0.5, seen[-2][1])

    found = quantiles(seen, rate, began, events, warm)

    assert found["p50_ms"] == pytest.approx(10, abs=0.01)
    assert found["max_ms"] == pytest.approx(510, abs=0.01)
    with pytest.raises(AssertionError, match=f"1 of {events} events have no decision"):
        quantiles([item for item in seen if ids[-1] not in item[1]], rate, began, events, warm)


def test_the_tables_have_their_places(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(DOCUMENT.read_text())

    write_document(rows(), TITLES, document)

    text = document.read_text()
    assert "| fraudstream worker, all guarantees | 30,000 | 35,000 |" in text
    assert "| Faust and River as documented | 15.00 | 14.00 |" in text


def test_a_kept_row_has_its_title_where_its_data_is_not() -> None:
    code = "from benchmarks.speed.__main__ import ROWS, TITLES; print(len(ROWS), *TITLES)"
    environment = {name: text for name, text in os.environ.items() if name != "FRAUDSTREAM_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    count, *titles = done.stdout.split()

    assert "replay-handbook" in titles
    assert int(count) == len(titles) - 1


def test_the_figures_are_those_of_the_rounds_in_the_middle() -> None:
    given = rows()["rows"]
    given["worker"]["rounds"] *= 3
    given["worker"]["rounds"][0] = {"events_per_second": 1.0}

    assert figures(given)["worker_events_per_second"] == 30_000.0
