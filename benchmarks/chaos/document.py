"""The tables of docs/reliability.md, made from the runs that were kept."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos.cases import CASES, SESSION_SECONDS
from benchmarks.chaos.results import RESULTS, CaseResult, Run, p95, seconds_of, totals
from benchmarks.documents import DOCS, markdown, put_tables
from benchmarks.machine import as_text

DOCUMENT = DOCS / "reliability.md"
SOAK = RESULTS.with_name("soak.json")
HARMS = ("lost", "double", "conflicting", "state_mismatches")
NOT_MADE = "not made yet\n"


def write_document(path: Path, runs: Sequence[Run]) -> None:
    """Put the tables between the markers of a document."""
    put_tables(path, tables(runs))


def tables(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Give each table by its name."""
    cases = [case for run in runs for case in run.cases]
    yield "totals", totals_table(cases) + _machines(runs) if cases else NOT_MADE
    yield "cases", cases_table(cases) if cases else NOT_MADE
    yield "times", times_table(cases) if cases else NOT_MADE
    yield "soak", soak_table(json.loads(SOAK.read_bytes())) if SOAK.exists() else NOT_MADE


def totals_table(cases: Sequence[CaseResult]) -> str:
    """Show what all runs together come to."""
    found = totals(cases)
    rows = [
        ("sudden ends: kill -9, ends at a fail-point", found["kills"]),
        ("transactions", found["events"]),
        ("labels", found["labels"]),
        ("lost", found["lost"]),
        ("counted twice", found["double"]),
        ("published again in another form", found["conflicting"]),
        ("the same, of what Redis was made to forget", found["conflicting_in_lost_window"]),
        ("state that is not the fold of its log", found["state_mismatches"]),
        ("model versions compared bit for bit", found["versions_compared"]),
        ("decisions published again, the same in every byte", found["repeated"]),
        ("the same for each sudden end", found["duplicates_per_kill"]),
    ]
    return markdown(["over all runs", "count"], [[text, _number(value)] for text, value in rows])


def cases_table(cases: Sequence[CaseResult]) -> str:
    """Show each case over all its runs."""
    by_name: dict[str, list[CaseResult]] = {}
    for case in cases:
        by_name.setdefault(case.name, []).append(case)
    names = [case.name for case in CASES if case.name in by_name]
    names += [name for name in by_name if name not in names]
    lines = []
    for name in names:
        given = by_name[name]
        made = [case for case in given if case.made]
        passed = sum(case.passed for case in made)
        summed: Counter[str] = Counter()
        for case in made:
            summed.update(events=case.events, kills=case.kills, repeated=case.repeated)
        verdict = f"{passed} of {len(made)}" if made else f"not made: {given[-1].why_not}"
        lines.append(
            [given[-1].faults, f"`{name}`", given[-1].title, verdict]
            + [_number(summed[column]) for column in ("events", "kills", "repeated")]
        )
    head = ["fault", "case", "what is done", "passed", "events", "sudden ends", "came again"]
    return markdown(head, lines)


def times_table(cases: Sequence[CaseResult]) -> str:
    """Show how long recoveries took."""
    rows = [
        ("worker", "a worker killed, until its partitions move (95 %)", SESSION_SECONDS + 5.0),
        ("kafka", "the broker ended and started, until all partitions move", 60.0),
        ("kafka resumed", "the broker halted, from its return", 60.0),
        ("redis", "Redis killed and started, until all partitions move", 15.0),
        ("redis resumed", "Redis halted, from its return", 15.0),
        ("redis put back", "Redis put back to an older state, all processes started anew", None),
    ]
    lines = []
    for kind, text, limit in rows:
        seconds = seconds_of(cases, kind)
        shown = p95(seconds) if kind == "worker" else max(seconds, default=None)
        lines.append([text, str(len(seconds)), _seconds(shown), f"{limit:.0f}" if limit else ""])
    stops = [seconds for case in cases for seconds in case.stops]
    lines.append(["asked to end (SIGTERM), until gone", str(len(stops)),
                  _seconds(max(stops, default=None)), "10"])  # fmt: skip
    stalls = [case.stall_seconds for case in cases if case.name == "storm"]
    lines.append(["nothing moves at all while workers come and go", str(len(stalls)),
                  _seconds(max(stalls, default=None)), "30"])  # fmt: skip
    return markdown(["from, to", "measured", "seconds", "limit"], lines)


def soak_table(found: Mapping[str, Any]) -> str:
    """Show what the last long run came to."""
    rows = [
        ["minutes", _number(found["minutes"])],
        ["transactions", _number(found["events"])],
        ["sudden ends", _number(found["kills"])],
        ["lost, counted twice, in two forms, state that differs",
         ", ".join(_number(found[name]) for name in HARMS)],
        ["decisions published again, the same in every byte", _number(found["repeated"])],
        ["lag in records, median and most",
         f"{_number(found['lag_records']['p50'])}, {_number(found['lag_records']['max'])}"],
    ]  # fmt: skip
    for name, slopes in found["memory"].items():
        for slope in slopes[:1]:
            rows.append(
                [
                    f"memory of the {name} that lived longest, growth in MB an hour",
                    f"{slope['mb_an_hour']:+.1f} ({slope['low']:+.1f} to {slope['high']:+.1f}), "
                    f"of {slope['mb']:.0f} MB, over {slope['minutes']:.0f} minutes",
                ]
            )
    return markdown(["the long run", "found"], rows)


def _machines(runs: Sequence[Run]) -> str:
    machines = dict.fromkeys(as_text(run.machine) for run in runs)
    return f"\n{len(runs)} runs on: {'; '.join(machines)}.\n"


def _number(value: float) -> str:
    return f"{value:,}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
