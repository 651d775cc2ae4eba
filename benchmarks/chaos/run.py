"""Runs cases, on one session as long as that is sound."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.chaos.cases import SESSION_SECONDS, Case
from benchmarks.chaos.checker import Finding, totals
from benchmarks.chaos.faults import TRAINER, WORKER, Broken, Faults, Noted, mount_small, unmount
from benchmarks.chaos.results import CaseResult, Recovery, p95, seconds_of
from benchmarks.chaos.session import Session, chaos_settings
from benchmarks.chaos.traffic import TrafficOptions, with_options
from benchmarks.chaos.watch import longest_stall, seconds_until_all_move
from pipeline.topics import FEEDBACK, TRANSACTIONS

WORKERS = 3
# The logs of a case that failed are kept there.
LOGS = Path("var/chaos")
DISK_MEGABYTES = {"kafka": 512, "redis": 512}
# What each kind of recovery may take, in seconds; `worker` is of the 95th percentile.
WORKER_LIMIT_SECONDS = SESSION_SECONDS + 5.0
LIMIT_SECONDS = {
    "kafka": 60.0, "redis": 15.0, "kafka resumed": 60.0, "redis resumed": 15.0,
}  # fmt: skip

Say = Callable[[str], None]


@dataclass
class Before:
    """What had been counted when a case began."""

    kills: int
    surprises: int
    counts: Counter[str]
    repeated: Counter[int]
    assignments: Counter[int]
    refusals: Counter[int]
    published: int
    started: float

    @classmethod
    def of(cls, session: Session) -> "Before":
        """Count."""
        return cls(
            session.cluster.all_kills,
            len(session.fleet.surprises),
            session.books.counts.copy(),
            session.books.decisions.repeated.copy(),
            assignments(session),
            refusals(session),
            len(session.books.published),
            time.monotonic(),
        )


def assignments(session: Session) -> Counter[int]:
    """How often each partition was given to somebody until now."""
    found: Counter[int] = Counter()
    for life in session.fleet.lives:
        if life.name == WORKER:
            found += life.assignments
    return found


def refusals(session: Session) -> Counter[int]:
    """How often a commit of each partition was refused until now: another owner was there."""
    found: Counter[int] = Counter()
    for life in session.fleet.lives:
        if life.name == WORKER:
            found += life.refusals
    return found


def keep_logs(folder: Path, place: Path) -> None:
    """Copy what everybody said to where it can be read afterwards."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in (*folder.glob("*.log"), *folder.glob("*/*.log")):
        shutil.copy(path, place / path.name)


class Suite:
    """Runs cases one after the other; a session whose books do not close is not used again."""

    def __init__(
        self, *, seed: int, say: Say, rate: float = 1.0, session_seconds: float = SESSION_SECONDS
    ) -> None:
        self._seed, self._say, self._rate = seed, say, rate
        self._session_seconds = session_seconds
        self._exits: ExitStack | None = None
        self._session: Session | None = None

    def run(self, cases: Sequence[Case]) -> Iterator[CaseResult]:
        """Give each case's result as it comes."""
        try:
            for number, case in enumerate(cases):
                self._say(f"{case.name}: {case.title} ({number + 1} of {len(cases)})")
                yield self._run(case)
        finally:
            self._leave()

    def _run(self, case: Case) -> CaseResult:
        result = CaseResult(name=case.name, faults=case.faults, title=case.title, seed=self._seed)
        started = time.monotonic()
        try:
            if case.own:
                self._leave()
            session = self._enter(case)
            if session is None:
                result.made, result.why_not = False, "a file system cannot be mounted here"
                return result
            self._play(case, session, result)
        except Exception as error:  # whatever it is, the other cases are run all the same
            result.found.append(f"{type(error).__name__}: {error}")
        result.seconds = round(time.monotonic() - started, 1)
        if not result.passed and self._session is not None:
            place = LOGS / f"{case.name}-{self._seed}"
            keep_logs(Path(self._session.settings.state_dir), place)
            self._say(f"    logs: {place}")
        if case.own or not result.passed:
            self._leave()
        return result

    def _enter(self, case: Case) -> Session | None:
        if self._session is not None:
            return self._session
        with ExitStack() as exits:
            folder = Path(exits.enter_context(TemporaryDirectory(prefix="fraudstream-chaos-")))
            if case.small_disk:
                disk = folder / case.small_disk
                if not mount_small(disk, DISK_MEGABYTES[case.small_disk]):
                    return None
                exits.callback(unmount, disk)
            settings = chaos_settings(folder, session_seconds=self._session_seconds)
            session = exits.enter_context(Session(settings, self._say, seed=self._seed))
            session.fleet.keep(WORKER, WORKERS)
            session.fleet.keep(TRAINER, 1)
            session.fleet.wait_until_ready(WORKER)
            session.fleet.wait_until_ready(TRAINER)
            self._exits, self._session = exits.pop_all(), session
        return self._session

    def _leave(self) -> None:
        exits, self._exits, self._session = self._exits, None, None
        if exits is not None:
            exits.close()

    def _play(self, case: Case, session: Session, result: CaseResult) -> None:
        chance = Random(f"{self._seed} {case.name}")
        usual = TrafficOptions(seed=self._seed)
        changes: dict[str, Any] = {"duplicate_share": usual.duplicate_share}
        changes |= {"rubbish_share": usual.rubbish_share} | case.traffic
        with_options(session.stream, **changes)
        session.fleet.wait_until_ready(WORKER)
        before = Before.of(session)
        try:
            with session.feeding(case.rate * self._rate) as feeder:
                faults = Faults(session, chance, feeder)
                try:
                    self._act(case, chance, faults)
                    ended = time.monotonic()
                finally:
                    session.heal()
            faults.close()
            if case.closes:
                session.fleet.keep(WORKER, WORKERS)
                self._close(session, faults.noted, result, before)
            result.found += faults.noted.unmet
            _measure(case, session, faults.noted, result, (before.started, ended))
        finally:
            result.kills = session.cluster.all_kills - before.kills
            result.surprises = session.fleet.surprises[before.surprises :]

    def _act(self, case: Case, chance: Random, faults: Faults) -> None:
        began = time.monotonic()
        for act in case.script(chance):
            time.sleep(max(0.0, began + act.at - time.monotonic()))
            given = ", ".join(f"{value}" for value in act.arguments.values())
            self._say(f"  {time.monotonic() - began:5.1f} s  {act.verb} {given}")
            getattr(faults, act.verb)(**act.arguments)
        time.sleep(max(case.tail, began + case.seconds - time.monotonic()))

    def _close(self, session: Session, noted: Noted, result: CaseResult, before: Before) -> None:
        session.books.window, session.books.examples_window = noted.window, noted.examples_window
        findings = session.close_books()
        _count(findings, session, result, before)
        result.conflicting_in_lost_window = session.books.apart
        result.lost_window_records = sum(old - new for new, old in noted.window.values())


def _count(findings: list[Finding], session: Session, result: CaseResult, before: Before) -> None:
    """Fill in what the books say."""
    harms = totals(findings)
    result.lost, result.double = harms["lost"], harms["double"]
    result.conflicting, result.state_mismatches = harms["conflicting"], harms["state"]
    result.found += [str(finding) for finding in findings]
    books = session.books
    counts = books.counts - before.counts
    result.events, result.labels = counts[TRANSACTIONS], counts[FEEDBACK]
    result.versions_compared = len(books.published) - before.published
    repeated = books.decisions.repeated - before.repeated
    result.repeated = sum(repeated.values())
    crashes = session.cluster.all_kills - before.kills + len(session.fleet.surprises)
    given = assignments(session) - before.assignments
    refused = refusals(session) - before.refusals
    result.refusals = sum(refused.values())
    result.repeated_max = max(repeated.values(), default=0)
    for partition, count in repeated.items():
        bound = session.batch * (given[partition] + crashes - before.surprises)
        # A store that went back repeats what it forgot.
        lost, old = session.books.window.get(partition, (0, 0))
        text = f"{count} decisions of partition {partition} came again, "
        if count > bound + session.batch * refused[partition] + old - lost:
            result.found.append(f"{text}{bound} at most may, and a batch for each refusal")
        elif count > bound + old - lost:
            result.late.append(f"{result.name}: {text}{bound} may: {refused[partition]} refusals")


def _measure(
    case: Case, session: Session, noted: Noted, result: CaseResult, span: tuple[float, float]
) -> None:
    """Fill in how long what was broken stood still, and what of that was too long."""
    steps = session.watch.steps
    result.stops = noted.stops
    result.recoveries = [_recovery(steps, broken) for broken in noted.broken]
    result.stall_seconds = round(longest_stall(steps, *span), 1)
    limit = case.stall_max
    if limit is not None and result.stall_seconds > limit:
        result.late.append(f"{case.name}: nothing moved for {result.stall_seconds:.1f} s")
    for recovery in result.recoveries:
        allowed = LIMIT_SECONDS.get(recovery.what)
        if allowed is not None and (recovery.seconds is None or recovery.seconds > allowed):
            result.late.append(f"{case.name}: {recovery.what} took {recovery.seconds} s")
    worker = p95(seconds_of([result], WORKER))
    if worker is not None and worker > WORKER_LIMIT_SECONDS:
        result.late.append(f"{case.name}: 95 % of lost workers took up to {worker:.1f} s")


def _recovery(steps: Sequence[Any], broken: Broken) -> Recovery:
    seconds = seconds_until_all_move(
        steps, since=broken.when, settled=broken.settled, partitions=set(broken.partitions)
    )
    return Recovery(broken.what, None if seconds is None else round(seconds, 2))
