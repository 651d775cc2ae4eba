"""Ids on a real Redis: what a commit takes, two partitions at once, the window, the bound."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from consumers.redis_ids import RedisIds
from consumers.redis_store import RedisStore
from pipeline.commit import Change, Stored
from pipeline.durations import DAY_MS
from pipeline.events import Transactions
from pipeline.memory_ids import MemoryIds
from pipeline.settings import Settings
from tests.strategies import MONDAY_MS, traffic, visits

pytestmark = pytest.mark.integration

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Partition:
    """One partition's side: look up, sift, commit with its watermark, as a scorer does."""

    def __init__(self, number: int, settings: Settings, run: Run) -> None:
        self.number, self._run = number, run
        self._store = RedisStore(settings.redis_url, retry_seconds_max=5)
        self._ids = RedisIds(settings)
        self._steps = 0
        self._watermark_ms = 0

    def look_up(self, batch: Transactions) -> tuple[list[int], int, list[int]]:
        """Load and sift; gives the fresh rows, the number of duplicates, the conflicting rows."""
        asked = self._ids.ask(batch, watermark_ms=self._watermark_ms)
        self._ids.answer(self._run(self._store.known_ids(asked)))
        found = self._ids.sift(batch)
        fresh = batch.event_time_ms[found.fresh]
        self._newest_ms = max(self._watermark_ms, *fresh.tolist(), 0)
        return found.fresh.tolist(), found.duplicates, found.conflicts.tolist()

    def commit(self, *more: Change) -> bool:
        """Commit what was sifted; `False` if it was refused."""
        changes = [*self._ids.changes(), ("SET", f"wm:{self.number}", self._newest_ms), *more]
        expected = str(self._steps) if self._steps else None
        stored = Stored(str(self._steps + 1), b"")
        name = f"test:{self.number}"
        if not self._run(self._store.commit(name, expected, stored, changes)):
            return False
        self._steps, self._watermark_ms = self._steps + 1, self._newest_ms
        return True

    def decide(self, batch: Transactions) -> tuple[list[int], int, list[int]]:
        found = self.look_up(batch)
        assert self.commit()
        return found

    def close(self) -> None:
        self._run(self._store.close())


class World:
    """Two partitions of one Redis."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.redis = redis.from_url(settings.redis_url)
        self._settings, self._run = replace(settings, partitions=2), run
        self.all: list[Partition] = []

    def partition(self, number: int, **changes: object) -> Partition:
        settings = replace(self._settings, **changes)  # type: ignore[arg-type]
        self.all.append(Partition(number, settings, self._run))
        return self.all[-1]

    @property
    def entries(self) -> int:
        counted = int(self.redis.hget("ids", "entries") or 0)
        held = sum(self.redis.hlen(key) for key in self.redis.scan_iter("d:*", count=10_000))
        assert counted == held
        return held


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    with asyncio.Runner() as runner:
        world = World(settings, runner.run)
        yield world
        for partition in world.all:
            partition.close()
        world.redis.close()


def numbered(first: int, count: int, *, time_ms: int = MONDAY_MS) -> Transactions:
    return visits([time_ms] * count, ids=[f"t{number}" for number in range(first, first + count)])


def test_an_id_is_known_in_the_next_batch_to_the_next_owner_and_elsewhere(world: World) -> None:
    batch = numbered(0, 3)
    first = world.partition(0)

    assert first.decide(batch) == ([0, 1, 2], 0, [])
    assert first.decide(batch) == ([], 3, [])
    assert world.partition(1).decide(batch) == ([], 3, [])
    other = replace(batch, amount_minor=batch.amount_minor + 1)
    assert world.partition(1).look_up(other) == ([], 0, [0, 1, 2])
    assert world.entries == 3


def test_memory_and_redis_sift_alike_whatever_the_batches(world: World) -> None:
    """Three weeks with events again, some changed, some after the window."""
    whole = traffic(5, 2_500)
    chance = np.random.default_rng(7)
    again = chance.integers(0, np.arange(2_500) + 1)
    rows = np.where(chance.random(2_500) < 0.3, again, np.arange(2_500))
    changed = np.where(chance.random(2_500) < 0.05, 1, 0)
    batch = whole.take(rows)
    batch = replace(batch, amount_minor=batch.amount_minor + changed)
    partition, expected = world.partition(0), MemoryIds(Settings()).sift(batch)

    fresh, conflicts, start = list[int](), list[int](), 0
    duplicates = 0
    for size in chance.integers(1, 400, 100).tolist():
        found = partition.decide(batch.slice(start, min(start + size, len(batch))))
        fresh += [start + row for row in found[0]]
        conflicts += [start + row for row in found[2]]
        duplicates += found[1]
        start += size
        if start >= len(batch):
            break

    assert fresh == expected.fresh.tolist()
    assert (duplicates, conflicts) == (expected.duplicates, expected.conflicts.tolist())
    assert len(conflicts) > 10 and duplicates > 200
    assert len(set(batch.transaction_id)) < len(fresh), "some came again after the window"


def test_of_two_partitions_with_one_id_at_one_moment_one_is_refused(world: World) -> None:
    first, second = world.partition(0), world.partition(1)
    batch = numbered(0, 5)
    other = replace(numbered(4, 5), keys=(["c2"] * 5, ["m1"] * 5))
    assert first.look_up(batch) == ([0, 1, 2, 3, 4], 0, [])
    assert second.look_up(other) == ([0, 1, 2, 3, 4], 0, [])

    assert first.commit()
    assert not second.commit(("SET", "r:terminal:m1", b"never"))

    # Nothing of a refused commit stays, and the next try knows better.
    assert world.redis.get("r:terminal:m1") is None
    assert world.redis.get("wm:1") is None
    assert world.entries == 5
    assert second.look_up(other) == ([1, 2, 3, 4], 0, [0])
    assert second.commit()
    assert world.entries == 9


def test_a_refused_commit_leaves_an_expired_entry_as_it_was(world: World) -> None:
    first, second = world.partition(0), world.partition(1)
    first.decide(numbered(0, 1))
    later = MONDAY_MS + 30 * DAY_MS
    second.decide(numbered(10, 1, time_ms=later))
    again = visits([MONDAY_MS, later], ids=["t0", "t20"])
    assert second.look_up(again) == ([0, 1], 0, [])
    before = hashes_of(world)
    first.decide(visits([later], ids=["t20"], cards=["c9"]))

    assert not second.commit()

    after = hashes_of(world)
    assert {key: after[key] for key in before} == before
    assert second.look_up(again) == ([0], 0, [1])
    assert second.commit()
    assert second.look_up(again) == ([], 1, [1])
    assert world.entries == 3


def hashes_of(world: World) -> dict[bytes, dict[bytes, bytes]]:
    return {key: world.redis.hgetall(key) for key in world.redis.scan_iter("d:*", count=10_000)}


def test_what_every_partition_has_left_behind_is_swept(world: World) -> None:
    limit = {"duplicate_ids_max": 3_000}
    first, second = world.partition(0, **limit), world.partition(1, **limit)
    first.decide(numbered(0, 500))
    second.decide(numbered(500, 500))
    later = MONDAY_MS + 8 * DAY_MS
    first.decide(numbered(1_000, 500, time_ms=later))
    # The second partition is a week behind: for it nothing has expired.
    assert world.entries == 1_500
    assert second.look_up(numbered(0, 500)) == ([], 500, [])

    second.decide(numbered(1_500, 400, time_ms=later))
    # Half of the limit's worth of ids sweeps all of them once.
    for start in range(1_900, 3_900, 500):
        first.decide(numbered(start, 500, time_ms=later))

    assert world.entries == 2_900
    assert int(world.redis.hget("ids", "dropped") or 0) == 0


def test_beyond_the_limit_the_oldest_go_and_are_counted(world: World) -> None:
    limit, count = 2_000, 10_000
    partition = world.partition(0, duplicate_ids_max=limit)
    for start in range(0, count, 500):
        partition.decide(numbered(start, 500, time_ms=MONDAY_MS + start * 1_000))
        assert world.entries <= limit * 11 // 10

    assert int(world.redis.hget("ids", "dropped") or 0) == count - world.entries
    # The newest are there.
    newest = numbered(count - 500, 500, time_ms=MONDAY_MS + (count - 500) * 1_000)
    fresh, duplicates, _ = partition.look_up(newest)
    assert duplicates > 450 and len(fresh) < 50


def test_a_thousand_commits_at_their_largest_fit(world: World) -> None:
    partition = world.partition(0)

    assert partition.decide(numbered(0, 3_000))[0] == list(range(3_000))
    assert partition.decide(numbered(0, 3_000))[1] == 3_000
