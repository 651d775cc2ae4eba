"""What came of cases and runs, as it is kept: one line of JSON a run."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.machine import machine

RESULTS = Path(__file__).parents[1] / "results" / "chaos.jsonl"
WORKER_QUANTILE = 0.95


class Recovery(msgspec.Struct, frozen=True):
    """What was broken, and how long it took until all that stood still for it moved."""

    what: str
    seconds: float | None


class CaseResult(msgspec.Struct, kw_only=True):
    """One case: what it did, what was found, what was measured.

    `late` are limits of time that were missed: on a busy machine they say more of that than of us.
    """

    name: str
    faults: str
    title: str
    seed: int
    made: bool = True
    why_not: str = ""
    seconds: float = 0.0
    events: int = 0
    labels: int = 0
    kills: int = 0
    lost: int = 0
    double: int = 0
    conflicting: int = 0
    state_mismatches: int = 0
    conflicting_in_lost_window: int = 0
    lost_window_records: int = 0
    versions_compared: int = 0
    repeated: int = 0
    repeated_max: int = 0
    refusals: int = 0
    recoveries: list[Recovery] = []
    stops: list[float] = []
    stall_seconds: float = 0.0
    found: list[str] = []
    late: list[str] = []
    surprises: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether nothing was found; a case that could not be made has not failed."""
        return not self.found


class Run(msgspec.Struct, kw_only=True):
    """Some cases of one seed."""

    when: str
    commit: str
    machine: dict[str, object]
    seed: int
    seconds: float
    cases: list[CaseResult]


def new_run(seed: int, seconds: float, cases: list[CaseResult]) -> Run:
    """Put cases together with where and of what they were run."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(
        when=now, commit=_commit(), machine=machine(), seed=seed, seconds=round(seconds, 1),
        cases=cases,
    )  # fmt: skip


def _commit() -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.stdout.strip()


def append(path: Path, run: Run) -> None:
    """Keep a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")


def load(path: Path) -> list[Run]:
    """Give the runs that were kept."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Run) for line in path.read_bytes().splitlines() if line]


def totals(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Add cases up."""
    made = [case for case in cases if case.made]
    summed: Counter[str] = Counter()
    for case in made:
        for name in (
            "kills", "events", "labels", "lost", "double", "conflicting", "state_mismatches",
            "conflicting_in_lost_window", "versions_compared", "repeated", "refusals",
        ):  # fmt: skip
            summed[name] += getattr(case, name)
    worker = seconds_of(made, "worker")
    return {
        "cases": len(made),
        "failed": [case.name for case in made if not case.passed],
        "not_made": [case.name for case in cases if not case.made],
        "late": [text for case in made for text in case.late],
        **summed,
        "duplicates_per_kill": round(summed["repeated"] / max(1, summed["kills"]), 2),
        "worker_recovery_p95_seconds": p95(worker),
        "worker_recoveries": len(worker),
        "broker_restart_seconds": _most(seconds_of(made, "kafka")),
        "redis_restart_seconds": _most(seconds_of(made, "redis")),
        "stop_seconds_max": _most([seconds for case in made for seconds in case.stops]),
    }


def seconds_of(cases: Sequence[CaseResult], what: str) -> list[float]:
    """Give all recoveries of a kind."""
    return list(_seconds(cases, what))


def _seconds(cases: Sequence[CaseResult], what: str) -> Iterator[float]:
    for case in cases:
        for recovery in case.recoveries:
            if recovery.what == what and recovery.seconds is not None:
                yield recovery.seconds


def p95(seconds: Sequence[float]) -> float | None:
    """Give the 95th percentile; `None` of nothing."""
    return round(float(np.quantile(seconds, WORKER_QUANTILE)), 2) if seconds else None


def _most(seconds: Sequence[float]) -> float | None:
    return round(max(seconds), 2) if seconds else None


def as_json(run: Run) -> str:
    """Give a run as one JSON object, totals first."""
    plain = json.loads(msgspec.json.encode(run))
    cases = plain.pop("cases")
    return json.dumps(totals(run.cases) | plain | {"case_results": cases})
