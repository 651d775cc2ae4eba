"""The watchdog of a worker: work that gets nowhere ends the process, and another takes over.

A partition gets nowhere when records of it wait, or lie unread in Kafka, and its position has been
the same for `STALL_SECONDS_MAX`. One whose labels have no room is not stalled: it waits for
decisions. A loop that is blocked cannot look at anything: for that, Python itself ends the process
and says in the log where each thread was.

>>> now = [0.0]
>>> watchdog = Watchdog(clock=lambda: now[0])
>>> watchdog.look({"transactions:0": Progress(position=5, has_work=True)}, is_rebalancing=False)
>>> now[0] = 61.0
>>> watchdog.look({"transactions:0": Progress(position=5, has_work=True)}, is_rebalancing=False)
>>> watchdog.stalled()
['transactions:0 has work and has stood at 5 for 61 s']
"""

import asyncio
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Longer than a store or a broker may take to answer, or to come back.
STALL_SECONDS_MAX = 60.0
STDERR = 2
# After so long without progress, others had better be given the work.
UNREADY_SECONDS = 15.0
WATCH_SECONDS = 5.0
# A stop that takes longer than this is a stop that hangs; the store makes a sudden end safe.
STOP_SECONDS_MAX = 8.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a partition stands, and whether there is anything for it to do."""

    position: int | None
    has_work: bool


class Watchdog:
    """Remembers when each partition last moved, or had nothing to do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved: dict[str, tuple[int | None, float]] = {}
        self._settled_at = self._looked_at = clock()

    def look(self, partitions: Mapping[str, Progress], *, is_rebalancing: bool) -> None:
        """Take note of where all partitions that are ours stand."""
        now = self._looked_at = self._clock()
        if not is_rebalancing:
            self._settled_at = now
        moved = {}
        for name, progress in partitions.items():
            position, since = self._moved.get(name, (None, now))
            stands = progress.has_work and position == progress.position and not is_rebalancing
            moved[name] = (progress.position, since if stands else now)
        # At once, since another thread reads it.
        self._moved = moved

    def stalled(self, seconds: float = STALL_SECONDS_MAX) -> list[str]:
        """Say what has got nowhere for so long."""
        now = self._clock()
        found = [
            f"{name} has work and has stood at {position} for {now - since:.0f} s"
            for name, (position, since) in self._moved.items()
            if now - since > seconds
        ]
        if now - self._settled_at > seconds:
            found.append(f"the group has been rebalancing for {now - self._settled_at:.0f} s")
        return found

    def problems(self) -> list[str]:
        """Say what speaks against giving work to this process now."""
        silence = self._clock() - self._looked_at
        late = [f"the loop has not come round for {silence:.0f} s"]
        return self.stalled(UNREADY_SECONDS) + (late if silence > UNREADY_SECONDS else [])


def watch_the_loop() -> None:
    """End the process unless this is called again in time; the log gets a trace of each thread."""
    faulthandler.dump_traceback_later(STALL_SECONDS_MAX, exit=True, file=STDERR)


async def keep_watching_the_loop() -> None:
    """Say again and again that the loop goes round, until cancelled."""
    try:
        while True:
            watch_the_loop()
            await asyncio.sleep(WATCH_SECONDS)
    finally:
        stop_watching_the_loop()


def end_soon() -> None:
    """Let a stop take `STOP_SECONDS_MAX`: a client may hear no cancellation, a fit may run on."""
    limit = threading.Timer(STOP_SECONDS_MAX, os._exit, (1,))
    limit.daemon = True
    limit.start()


def stop_watching_the_loop() -> None:
    """Let the loop end."""
    faulthandler.cancel_dump_traceback_later()
