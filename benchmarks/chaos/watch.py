"""Watches how far each partition is committed, so that stalls and recoveries are seen from outside.

>>> steps = [(0.0, (5, 5)), (1.0, (6, 5)), (4.0, (7, 9))]
>>> seconds_until_all_move(steps, since=0.5, settled=0.5, partitions={0, 1})
3.5
>>> seconds_until_all_move(steps, since=0.5, settled=1.0, partitions={0})
3.5
>>> longest_stall(steps, 0.0, 5.0)
3.0
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from pipeline.topics import TRANSACTIONS

POLL_SECONDS = 0.05
# A step that was done is seen by then.
SEEN_SECONDS = 2 * POLL_SECONDS

Step = tuple[float, tuple[int, ...]]
"""When something had moved, and where each partition stood then."""


def seconds_until_all_move(
    steps: Sequence[Step], *, since: float, settled: float, partitions: set[int]
) -> float | None:
    """Give how long it took from a moment until each of these has moved; `None`: one has not.

    Until `settled` what moved was on its way before, or is seen late, and does not count.
    """
    settled += SEEN_SECONDS
    before = [places for when, places in steps if when <= settled]
    if not before or not partitions:
        return None
    left = set(partitions)
    for when, places in steps:
        if when > settled:
            left -= {number for number in left if places[number] > before[-1][number]}
            if not left:
                return when - since
    return None


def longest_stall(steps: Sequence[Step], start: float, end: float) -> float:
    """Give the longest time between two moments in which no partition moved."""
    times = [start, *(when for when, _ in steps if start < when < end), end]
    return max(after - before for before, after in zip(times, times[1:], strict=False))


class ProgressWatch:
    """Asks Redis for the positions many times a second, for the length of a `with` block."""

    def __init__(self, redis_url: str, partitions: int) -> None:
        self._keys = [f"pos:{TRANSACTIONS}:{number}" for number in range(partitions)]
        self._redis: Any = Redis.from_url(redis_url, socket_timeout=1.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.steps: list[Step] = []

    def __enter__(self) -> "ProgressWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._redis.close()

    @property
    def committed(self) -> int:
        """How many records all partitions together are committed to."""
        return sum(self.steps[-1][1]) if self.steps else 0

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                stored = self._redis.mget(self._keys)
            except RedisError:
                continue
            places = tuple(int((text or b"0").split(b":")[0]) for text in stored)
            if not self.steps or places != self.steps[-1][1]:
                self.steps.append((time.monotonic(), places))
