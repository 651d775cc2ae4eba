"""A backfill that is stopped, killed, refused: what it leaves is what an undisturbed one leaves."""

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.backfill import Backfill
from pipeline.errors import CommitError
from pipeline.settings import Settings
from pipeline.topics import DECISIONS, FEEDBACK, MODELS, TRAINING
from stack import backfill_command
from stack.servers import Endpoints
from stack.services import PROGRAM, _flags
from tests.integration.processes import Processes, read
from tests.integration.test_backfill import OPTIONS, changed, done, keys_of, past, run, write
from tests.resetting import reset
from tests.strategies import CARD
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EVENTS = 1_200
CRASHES_MIN = 10
# Who committed, how often a trainer began, and what a labeller knew of the end of a log.
OF_THE_PROCESS = ("out", "te", "lease")


@dataclass(frozen=True)
class Left:
    """Everything that a backfill leaves, but for what names its process."""

    keys: dict[str, object]
    decisions: list[tuple[int, bytes, bytes]]
    training: list[bytes]
    models: list[tuple[bytes, bytes | None]]


def left(settings: Settings) -> Left:
    with redis.from_url(settings.redis_url) as client:
        keys = {
            name: value
            for name, value in keys_of(settings, client).items()
            if name.split(":")[0] not in OF_THE_PROCESS
        }
    # Every start of a trainer takes a step of its own.
    keys["pos:training"] = bytes(keys["pos:training"]).split(b":")[0]  # type: ignore[arg-type]
    # A labeller that began again may take what it matures in other steps.
    for name in (f"pos:{FEEDBACK}:{p}" for p in range(settings.partitions)):
        offset, seq, _, matured = bytes(keys[name]).split(b":")  # type: ignore[call-overload]
        keys[name] = offset, seq, matured
    return Left(
        keys=keys,
        decisions=[(r.partition, r.key, r.value) for r in read(settings, DECISIONS)],
        training=[record.value for record in read(settings, TRAINING)],
        models=list(dict.fromkeys((r.key, r.value) for r in read(settings, MODELS))),
    )


def assert_same(found: Left, wanted: Left) -> None:
    different = {
        name
        for name in {*found.keys, *wanted.keys}
        if found.keys.get(name) != wanted.keys.get(name)
    }
    assert different == set()
    assert found.decisions == wanted.decisions
    assert found.training == wanted.training
    assert found.models == wanted.models


@dataclass
class Case:
    endpoints: Endpoints
    settings: Settings
    file: Path
    undisturbed: Left

    def empty(self) -> None:
        reset(self.endpoints, self.settings)


@pytest.fixture(scope="module")
def case(stack: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("stopped")
    settings = changed(
        Settings(
            state_dir=str(folder / "state"),
            kafka_servers=stack.kafka_servers,
            redis_url=stack.redis_url,
        )
    )
    file = write(folder / "past.csv", past().slice(0, EVENTS))
    reset(stack, settings)
    said = done(run(settings, str(file)))
    assert said["transactions"]["decided"] == EVENTS
    assert said["labels"]["ledger"]["matured"] > 50
    yield Case(stack, settings, file, left(settings))


class CrashError(Exception):
    """The process is no more."""


class Crashing(Backfill):
    """A backfill that dies at a commit or a publication: before it, or once it is done."""

    chance = random.Random(7)
    last_call = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.calls, type(self).last_call = 0, self.chance.randint(1, 18)
        for owner, name in (
            (self.store, "commit"),
            (self._trainer._store, "commit"),
            (self._publisher, "publish"),
            (self._trainer._publisher, "publish"),
        ):
            setattr(owner, name, self._dying(getattr(owner, name)))

    def _dying(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def dying(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls > self.last_call:
                raise CrashError
            done_first = self.calls == self.last_call and self.calls % 2 == 0
            if self.calls == self.last_call and not done_first:
                raise CrashError
            found = await call(*arguments)
            if done_first:
                raise CrashError
            return found

        return dying


def test_a_run_that_dies_at_any_step_of_the_protocol_ends_the_same(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.empty()
    monkeypatch.setattr(backfill_command, "Backfill", Crashing)

    crashes = 0
    while isinstance((result := run(case.settings, str(case.file))).exception, CrashError):
        crashes += 1
        assert crashes < 500

    # One that died behind its last commit has nothing left to do.
    assert "is done: workers begin" in str(result.exception) or done(result)["resumed"]
    assert crashes >= CRASHES_MIN
    assert_same(left(case.settings), case.undisturbed)


def test_a_process_that_is_killed_at_random_moments_ends_the_same(case: Case) -> None:
    case.empty()
    command = [
        *(sys.executable, "-c", PROGRAM, "backfill", str(case.file), *OPTIONS),
        *_flags(case.settings, case.endpoints),
    ]
    chance = random.Random(3)
    with redis.from_url(case.settings.redis_url) as client:

        def reached() -> int:
            names = [f"pos:backfill.transactions:{p}" for p in range(case.settings.partitions)]
            return max(int((value or b"0").split(b":")[0]) for value in client.mget(names))

        for share in (0.2, 0.5, 0.8):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wanted = EVENTS * share + chance.uniform(-100, 100)
            wait_until(lambda at=wanted: reached() >= at, "so much is done", seconds_max=180)
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL

    assert done(run(case.settings, str(case.file)))["resumed"]
    assert_same(left(case.settings), case.undisturbed)


def test_until_the_cut_over_nobody_else_begins_and_nothing_else_goes_on(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case.empty()
    monkeypatch.setattr(backfill_command, "Backfill", Crashing)
    while not isinstance(run(case.settings, str(case.file)).exception, CrashError):
        case.empty()
    monkeypatch.undo()

    with Processes(case.settings) as processes:
        for name in ("worker", "trainer"):
            process = processes.start(name)
            wait_until(lambda p=process: p.has_ended, f"the {name} has ended", seconds_max=90)
            assert "is half read into this Redis" in process.output
            assert "Traceback" not in process.output

    other = write(tmp_path / "other.csv", past().slice(0, 100))
    assert "SHA-256 was" in str(run(case.settings, str(other)).exception)
    changed_delay = run(case.settings, str(case.file), "--sort")
    assert "option sort was False and is True" in str(changed_delay.exception)

    with pytest.raises(CommitError, match="another backfill is at work"):
        asyncio.run(two_at_once(case))


async def two_at_once(case: Case) -> None:
    places = {"kafka_servers": case.settings.kafka_servers, "redis_url": case.settings.redis_url}
    async with Backfill(case.settings, CARD, **places), Backfill(case.settings, CARD, **places):
        raise AssertionError("two are at work")
