"""`make bench-quality`: run the rows that are not done, then write the tables.

Each row runs in a process of its own, one after the other, and is kept as soon as it is done; a row
whose result was made by the same code is skipped. So it can be stopped and begun again at any row.
"""

import json
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.quality.estimates import minutes_of
from benchmarks.quality.keys import row_key
from benchmarks.quality.results import Results
from benchmarks.quality.rows import Row, all_rows, row_of
from benchmarks.quality.run import kept_of, quality_of
from benchmarks.quality.summary import write_document
from benchmarks.quality.tables import Truth

FOLDER = Path(__file__).parent.parent / "results/quality"
DOCUMENT = Path(__file__).parent.parent.parent / "docs/benchmarks.md"


def run_rows(rows: list[Row], results: Results) -> list[str]:
    """Run rows one after the other; give the names of those that failed."""
    waiting = [row for row in rows if not results.is_done(row.name, row_key(row))]
    click.echo(f"{len(rows) - len(waiting)} of {len(rows)} rows are done", err=True)
    failed = []
    for place, row in enumerate(waiting):
        left = sum(map(minutes_of, waiting[place:]))
        click.echo(
            f"== {place + 1} of {len(waiting)}: {row.name} (about {left:,.0f} min left)", err=True
        )
        started = time.monotonic()
        if (found := _run(row)) is None:
            failed.append(row.name)
        else:
            results.save(row.name, row_key(row), found, seconds=time.monotonic() - started)
    return failed


def _run(row: Row) -> dict[str, object] | None:
    """Run a row in a process of its own; `None` where it failed and has said why."""
    command = [sys.executable, "-m", "benchmarks.quality.run", row.name]
    with TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        if row.kind in ("handbook", "own"):
            made = subprocess.run([*command, "--table"], check=False)
            if made.returncode:
                return None
        if subprocess.run([*command, str(out)], check=False).returncode:
            return None
        found: dict[str, object] = json.loads(out.read_text(encoding="utf-8"))
        return found


def measure_again(rows: list[Row], results: Results) -> None:
    """Measure rows that are done from the scores that were kept, since measures have changed."""
    for row in rows:
        record = results.load(row.name)
        if record is None or not (path := kept_of(row, record["key"])).is_file():
            continue
        with np.load(path) as kept:
            scores = kept["scores"]
        found = record["result"] | quality_of(row, scores, Truth.load(path))
        results.save(row.name, record["key"], found, seconds=record["seconds"])


def _chosen(patterns: str | None) -> list[Row]:
    if not patterns:
        return all_rows()
    names = patterns.split(",")
    exact = [row_of(name) for name in names if name.startswith("tiny-")]
    return [row for row in all_rows() if any(fnmatch(row.name, name) for name in names)] + exact


@click.command()
@click.option("--rows", "patterns", help="Names or patterns such as 'drift-*', by commas.")
@click.option("--list", "list_only", is_flag=True, help="Show the rows, and which are done.")
@click.option("--measure", "measure_only", is_flag=True, help="Measure kept scores again.")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Results.")
@click.option("--document", type=click.Path(path_type=Path), default=DOCUMENT, help="Tables.")
def main(
    patterns: str | None, list_only: bool, measure_only: bool, folder: Path, document: Path
) -> None:
    """Compare our models with others, row by row."""
    rows, results = _chosen(patterns), Results(folder)
    if list_only:
        for row in rows:
            done = "done" if results.is_done(row.name, row_key(row)) else "    "
            click.echo(f"{done} {minutes_of(row):6.1f} min  {row.name}")
        return
    failed: list[str] = []
    if measure_only:
        measure_again(rows, results)
    else:
        failed = run_rows(rows, results)
    write_document(document, results)
    if failed:
        raise click.ClickException(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
