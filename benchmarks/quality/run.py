"""Run one row in this process and write what came of it: `python -m benchmarks.quality.run NAME`.

The parent starts one such process for each row, so that seconds and megabytes are the row's own. A
table of features is made in a process of its own, for the same reason (`--table`).
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.progress import progress
from benchmarks.quality.cost import measure_cost
from benchmarks.quality.keys import row_key, table_key
from benchmarks.quality.loop import run_loop
from benchmarks.quality.measures import measure
from benchmarks.quality.online import ContractLearner, Forest, Online, VowpalWabbit
from benchmarks.quality.recovery import daily_log_loss, recovery
from benchmarks.quality.refitted import Refitted, lightgbm, xgboost
from benchmarks.quality.rows import Row, row_of
from benchmarks.quality.streams import DRIFT_DAY, START, STREAMS, cache_folder, day_ms
from benchmarks.quality.tables import Table, Truth, champion_of, replayed, table_of
from pipeline.durations import DAY_MS
from pipeline.errors import FraudstreamError
from pipeline.settings import Settings

TREES = {"lightgbm": lightgbm, "xgboost": xgboost}
PERIOD_DAYS = {"daily": 1.0, "weekly": 7.0}
# The forest is so slow that it sees half of the Handbook's stream.
FOREST_END_MS = day_ms(START, 85)

Scores = NDArray[np.float64]


def rival_of(model: str) -> Refitted | Online:
    """Make a rival by its name.

    >>> rival_of("lightgbm-weekly-30d").window_days
    30.0
    """
    if model == "river":
        return Online(lambda names: ContractLearner("logistic", names))
    if model in ("vw", "vw-pairs"):
        return Online(lambda names: VowpalWabbit(names, pairs=model == "vw-pairs"))
    if model == "forest":
        return Online(Forest)
    library, period, window = model.split("-")
    return Refitted(TREES[library], PERIOD_DAYS[period], float(window.removesuffix("d")))


def run_row(row: Row) -> dict[str, Any]:
    """Run a row and measure it."""
    if row.kind == "cost":
        return measure_cost(STREAMS[row.stream], row.model, row.delay_days)
    started = time.process_time()
    if row.kind == "loop":
        replay, found = run_loop(row.stream, row.model)
        return _measured(row, *champion_of(replay), started) | found
    if row.kind == "replay":
        settings = Settings(model=row.model, challengers="none")
        replay = replayed(STREAMS[row.stream], settings, int(row.delay_days * DAY_MS))
        return _measured(row, *champion_of(replay), started)
    table = _table(row)
    started = time.process_time()
    scores = _rival_scores(row, table)
    return _measured(row, scores, table.truth, started)


def _table(row: Row) -> Table:
    features = "handbook" if row.kind == "handbook" else "own"
    return table_of(row.stream, features, row.delay_days, table_key(features))


def _rival_scores(row: Row, table: Table) -> Scores:
    stop = len(table)
    if row.model == "forest" and row.stream == "handbook":
        stop = int(np.searchsorted(table.truth.event_time_ms, FOREST_END_MS))
    with progress(row.model, "events", stop) as report:
        return rival_of(row.model).run(table, stop, report)


def _measured(row: Row, scores: Scores, truth: Truth, started: float) -> dict[str, Any]:
    used = {
        "cpu_seconds": time.process_time() - started,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    _keep(row, scores, truth)
    return quality_of(row, scores, truth) | used


def quality_of(row: Row, scores: Scores, truth: Truth) -> dict[str, Any]:
    """Give everything that is measured from a row's scores."""
    found = measure(scores, truth, STREAMS[row.stream].judged_ms)
    if row.stream == "drift":
        daily = daily_log_loss(scores, truth.is_fraud, truth.event_time_ms)
        found["recovery"] = change = recovery(daily, change=DRIFT_DAY)
        if (days := change["days_to_recover"]) is not None:
            # Of the events since the change, those whose labels were known by then.
            known = np.array([0, days - row.delay_days]) * DAY_MS + day_ms(START, DRIFT_DAY)
            first, last = np.searchsorted(truth.event_time_ms, known).tolist()
            change["labels_to_recover"] = max(last - first, 0)
    return found


def kept_of(row: Row, key: str) -> Path:
    """Give the file in which a row's scores are kept, to be measured again when measures change."""
    return cache_folder() / f"scores-{row.name}-{key}.npz"


def _keep(row: Row, scores: Scores, truth: Truth) -> None:
    np.savez_compressed(kept_of(row, row_key(row)), scores=scores, **truth.columns())


@click.command()
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option("--table", "table_only", is_flag=True, help="Only make the table of the row.")
def main(name: str, out: Path | None, table_only: bool) -> None:
    """Run the row of this name; its result goes to OUT, or to standard output."""
    try:
        row = row_of(name)
        if table_only:
            _table(row)
            return
        text = json.dumps(run_row(row))
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"{error.name} is not installed: `make bench-quality`"
        ) from error
    except FraudstreamError as error:
        raise click.ClickException(str(error)) from error
    if out is None:
        click.echo(text)
    else:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
