"""`make bench`: run the rows in turn, keep their figures, write the tables, say what changed.

Every row runs once in each round, so that whatever disturbs the machine disturbs all of them. A row
that fails is named with its reason, and the others go on. `--only worker,latency-*` runs some; the
figures of the others stay as they were.
"""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.speed import latency, ours, rivals
from benchmarks.speed.bench import Bench, Found, Row
from benchmarks.speed.compare import verdict
from benchmarks.speed.cores import find_cores, pin
from benchmarks.speed.material import CARDS, TERMINALS
from benchmarks.speed.place import OURS, say
from benchmarks.speed.results import RESULT, committed, kept, load, save
from benchmarks.speed.summary import write_document
from pipeline.errors import SettingError

ROWS = (*rivals.ROWS, *latency.ROWS, *ours.ROWS)
# What was kept may hold a row whose data is not here.
TITLES = {row.name: row.title for row in (*ROWS, ours.HANDBOOK)}
EVENTS, SHORT_EVENTS = 400_000, 4_000
ROUNDS = 3


def chosen(patterns: str | None) -> list[Row]:
    """Give the rows that are asked for, in their own order."""
    names = (patterns or "*").split(",")
    found = [row for row in ROWS if any(fnmatch(row.name, name) for name in names)]
    for name in names:
        if not any(fnmatch(row.name, name) for row in ROWS):
            known = ", ".join(row.name for row in ROWS)
            raise SettingError(f"there is no row {name!r}: choose from {known}")
    return found


def run_rows(
    bench: Bench, rows: Sequence[Row], rounds: int
) -> tuple[dict[str, list[Found]], dict[str, str]]:
    """Run the rows in turn; gives what each round gave, and why rows failed."""
    given: dict[str, list[Found]] = {}
    failed: dict[str, str] = {}
    for number in range(rounds):
        due = [row for row in rows if number < row.rounds_max and row.name not in failed]
        for place, row in enumerate(due):
            say(f"== round {number + 1} of {rounds}, {place + 1} of {len(due)}: {row.title}")
            started = time.monotonic()
            try:
                found = row.run(bench)
            except Exception as error:  # whatever it is, the other rows can be measured
                failed[row.name] = f"{type(error).__name__}: {error}"
                say(f"{row.name} failed: {failed[row.name]}")
                given.pop(row.name, None)
                continue
            given.setdefault(row.name, []).append(found)
            say(f"{_shown(found)} ({time.monotonic() - started:.0f} s)")
    return given, failed


def _shown(found: Found) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in found.items())


def _about(bench: Bench, rounds: int) -> dict[str, Any]:
    return {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": bench.cores.words,
        "rounds": rounds,
        "events": bench.events,
        "cards": CARDS,
        "terminals": TERMINALS,
        "partitions": OURS.partitions,
        "bytes_per_event": bench.material.bytes_per_event,
    }


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds. [default: {ROUNDS}]")
@click.option("--events", type=click.IntRange(min=100), help=f"Events. [default: {EVENTS:,}]")
@click.option("--only", help="Rows or patterns, by commas: worker,naive-faust,latency-*.")
@click.option("--list", "list_only", is_flag=True, help="Show the rows.")
@click.option("--short", is_flag=True, help="One round of few events: shows that it runs.")
@click.option("--check", is_flag=True, help="Exit code 1 where something became slower.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object last.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, help="Keep the JSON there.")
def main(
    rounds: int | None, events: int | None, only: str | None, list_only: bool, short: bool,
    check: bool, as_json: bool, out: Path,
) -> None:  # fmt: skip
    """Measure how fast everything is on this machine."""
    rows = chosen(only)
    if list_only:
        for row in rows:
            click.echo(f"{row.name:<20} {row.title}")
        return
    if short and out == RESULT:
        raise click.UsageError("--short needs --out: its figures are not worth keeping")
    cores = find_cores()
    say(cores.words)
    pin(cores.others)
    rounds = rounds or (1 if short else ROUNDS)
    events = events or (SHORT_EVENTS if short else EVENTS)
    before = committed(RESULT)
    with TemporaryDirectory(prefix="fraudstream-bench-") as folder:
        bench = Bench(cores, events, short, Path(folder))
        if not short:
            say("== compiling what is not compiled yet")
            bench.compile()
        given, failed = run_rows(bench, rows, rounds)
        found = kept(load(out), _about(bench, rounds), given, failed)
    save(out, found)
    if out == RESULT:
        write_document(found, TITLES)
    lines, is_worse = verdict(before, found)
    for line in lines:
        say(line)
    for name, why in failed.items():
        say(f"not measured: {name}: {why}")
    if as_json:
        click.echo(json.dumps(found["figures"] | {"failed": sorted(failed)}))
    else:
        for name, value in found["figures"].items():
            click.echo(f"{name:<40} {'not measured' if value is None else format(value, ',.4g')}")
    sys.exit(1 if failed or (check and is_worse) else 0)


if __name__ == "__main__":
    main()
