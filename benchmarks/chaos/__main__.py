"""`python -m benchmarks.chaos`: break a real cluster in every way of the list, and close its books.

Exit code 1 when a case fails; what it prints then says how to run that case again. Every run is
kept beside the others, one line of JSON each, and the document's tables are made of all of them.
"""

import fnmatch
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.cases import CASES, SESSION_SECONDS, Case, round_of_kills
from benchmarks.chaos.document import DOCUMENT, write_document
from benchmarks.chaos.results import RESULTS, CaseResult, append, as_json, load, new_run, totals
from benchmarks.chaos.run import Suite

KILLS_A_ROUND = 20
ROUND_SESSION_SECONDS = 2.0


def _say(line: str) -> None:
    click.echo(line, err=True)


def chosen(patterns: str | None) -> list[Case]:
    """Give the cases whose names fit one of the patterns; all, where none are given."""
    wanted = [text.strip() for text in (patterns or "*").split(",")]
    known = {case.name for case in CASES}
    for pattern in wanted:
        if not fnmatch.filter(known, pattern):
            raise click.BadParameter(f"no case {pattern!r}: known are {', '.join(sorted(known))}")
    return [
        case for case in CASES if any(fnmatch.fnmatch(case.name, pattern) for pattern in wanted)
    ]


def show(cases: list[CaseResult]) -> None:
    """Print a table of what was found and measured."""
    table = Table(
        "case", "fault", "result", "s", "events", "kills", "lost", "double", "differ", "state",
        "again", "recovered in, s", box=None,
    )  # fmt: skip
    for case in cases:
        verdict = ("ok" if case.passed else "FAILED") if case.made else "not made"
        recovered = [item.seconds for item in case.recoveries if item.seconds is not None]
        table.add_row(
            case.name, case.faults, verdict, f"{case.seconds:.0f}", f"{case.events:,}",
            str(case.kills), str(case.lost), str(case.double), str(case.conflicting),
            str(case.state_mismatches), str(case.repeated),
            f"{max(recovered):.1f}" if recovered else "",
        )  # fmt: skip
    Console(stderr=True, width=140).print(table)
    for name, value in totals(cases).items():
        if value not in ([], None):
            _say(f"{name.replace('_', ' ')}: {value}")


def tell(result: CaseResult) -> None:
    """Say at once what a case came to, and how it is run again."""
    if not result.made:
        _say(f"{result.name}: not made, {result.why_not}")
        return
    _say(f"{result.name}: {'ok' if result.passed else 'FAILED'} in {result.seconds:.0f} s")
    for text in (*result.found, *result.late, *result.surprises):
        _say(f"    {text}")
    if not result.passed:
        again = "--rounds 1" if result.name == "kills" else f"--cases {result.name}"
        _say(f'    again: make chaos ARGS="{again} --seed {result.seed}"')


@click.command()
@click.option("--list", "list_only", is_flag=True, help="List the cases, run none.")
@click.option("--cases", "patterns", help="Names, separated by commas; * stands for anything.")
@click.option("--rounds", default=0, help=f"Instead: so many rounds of {KILLS_A_ROUND} kills.")
@click.option("--seed", default=1, show_default=True, help="Makes the faults and the traffic.")
@click.option("--rate", default=1.0, show_default=True, help="Times the usual rate of events.")
@click.option("--json", "as_one", is_flag=True, help="Print one JSON object at the end.")
@click.option("--lenient", is_flag=True, help="A missed limit of time is no failure.")
@click.option(
    "--results", type=click.Path(path_type=Path), default=RESULTS, help="Keep runs there."
)
@click.option("--document", type=click.Path(path_type=Path), help="Only write the tables there.")
def main(
    list_only: bool,
    patterns: str | None,
    rounds: int,
    seed: int,
    rate: float,
    as_one: bool,
    lenient: bool,
    results: Path,
    document: Path | None,
) -> None:
    """Break real servers, workers and trainers, and account for every record."""
    if list_only:
        for case in CASES:
            click.echo(f"{case.name:<16} {case.faults:<8} {case.title}")
        return
    if document is not None:
        write_document(document, load(results))
        return
    cases = [round_of_kills(KILLS_A_ROUND)] * rounds if rounds else chosen(patterns)
    session_seconds = ROUND_SESSION_SECONDS if rounds else SESSION_SECONDS
    started, done = time.monotonic(), []
    suite = Suite(seed=seed, say=_say, rate=rate, session_seconds=session_seconds)
    # Servers are stopped, and what was found until then is kept.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for result in suite.run(cases):
            tell(result)
            done.append(result)
    finally:
        run = new_run(seed, time.monotonic() - started, done)
        if done:
            append(results, run)
        if DOCUMENT.exists() and results == RESULTS:
            write_document(DOCUMENT, load(results))
    show(done)
    if as_one:
        click.echo(as_json(run))
    found = totals(done)
    sys.exit(bool(found["failed"] or (found["late"] and not lenient)))


if __name__ == "__main__":
    main()
