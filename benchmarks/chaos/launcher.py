"""Runs a worker or a trainer that dies, or whose clock jumps, when it is told to.

The product has no hooks for that: two of its methods are wrapped, and then its ordinary command
runs. A control file is looked at whenever a wrapped method is called, so a process can be armed at
any moment of its life:

    {"fail_at": "after_cas", "after": 3}    the process ends at the third such point from now on
    {"clock_seconds": 3600}                 the wall clock is an hour ahead

The points stand around the two steps of a commit (`pipeline/commit.py`): `before_cas` and
`after_cas` around the script in Redis, `mid_publish` and `after_publish` in the publication of the
outbox.
"""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from consumers.outbox_publisher import OutboxPublisher
from consumers.redis_store import RedisStore
from pipeline.commit import Change, OutboxRecord, Stored

# What it says is kept with what the process itself says.
logger = logging.getLogger("consumers.launcher")

FailPoint = Literal["before_cas", "after_cas", "mid_publish", "after_publish"]
FAIL_POINTS: tuple[FailPoint, ...] = get_args(FailPoint)
# Tells an end at a fail-point from every other.
EXIT_CODE = 86

PROGRAM = """\
import sys
sys.path.insert(0, {root!r})
from benchmarks.chaos.launcher import main
main({control!r})
"""


class Orders(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in a control file."""

    fail_at: FailPoint | None = None
    after: int = 1
    clock_seconds: float = 0.0


def program(control: Path) -> str:
    """Give the program of a process that obeys a control file."""
    root = str(Path(__file__).resolve().parents[2])
    return PROGRAM.format(root=root, control=str(control))


def give_orders(control: Path, orders: Orders) -> None:
    """Write a control file; the process that reads it sees the old one or the new one."""
    partial = control.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(orders))
    partial.replace(control)


class Control:
    """A control file as its process reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] = (0, 0)
        self._orders = Orders()
        self._passed = 0

    @property
    def orders(self) -> Orders:
        """The orders of now; none without a file."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return Orders()
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp != self._stamp:
            self._stamp, self._passed = stamp, 0
            self._orders = msgspec.json.decode(self._path.read_bytes(), type=Orders)
        return self._orders

    def passes(self, point: FailPoint) -> None:
        """Say that a point is reached: the process may end there."""
        orders = self.orders
        if orders.fail_at == point:
            self._passed += 1
            if self._passed >= orders.after:
                os._exit(EXIT_CODE)


def wrap_commits(control: Control) -> None:
    """Put the fail-points around the store's commit and the publication of an outbox."""
    commit, publish = RedisStore.commit, OutboxPublisher.publish

    async def failing_commit(
        self: RedisStore,
        name: str,
        expected: str | None,
        stored: Stored,
        changes: Sequence[Change],
    ) -> bool:
        control.passes("before_cas")
        done = await commit(self, name, expected, stored, changes)
        control.passes("after_cas")
        if not done:
            logger.info("refused: input=%s", name)
        return done

    async def failing_publish(
        self: OutboxPublisher, records: Sequence[OutboxRecord]
    ) -> asyncio.Future[list[int]]:
        half = (len(records) + 1) // 2 if control.orders.fail_at == "mid_publish" else 0
        offsets = await (await publish(self, records[:half])) if half else []
        if half:
            control.passes("mid_publish")
        rest = await publish(self, records[half:])

        async def landed() -> list[int]:
            found = [*offsets, *await rest]
            if records:
                control.passes("after_publish")
            return found

        return asyncio.ensure_future(landed())

    changed: Any = RedisStore
    changed.commit = failing_commit
    changed = OutboxPublisher
    changed.publish = failing_publish


def wrap_clock(control: Control) -> None:
    """Let the wall clock jump; the monotonic one never does, as on a real machine."""
    true_time = time.time
    clock: Any = time
    clock.time = lambda: true_time() + control.orders.clock_seconds


def main(path: str) -> None:
    """Wrap what is to fail, and run the console script."""
    control = Control(Path(path))
    wrap_commits(control)
    wrap_clock(control)
    # Who was given which partitions is asked afterwards.
    logging.getLogger("consumers").setLevel(logging.INFO)
    # Whoever imports `time` by name must find the wrapped one.
    from pipeline.cli import main as command  # noqa: PLC0415

    command()
