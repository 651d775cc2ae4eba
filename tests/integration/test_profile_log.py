"""Rows of profiles as a fold of a log in a real Redis: several processes, written back at any time.

Each cache here is what a process holds. What is seen must be what one table in memory would hold
after the same events, whoever holds which rows, whenever they are written back or forgotten.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from benchmarks.chaos.held import write_rows_back
from consumers import redis_profiles
from consumers.redis_profiles import ProfileCache, RedisProfiles, taught_change
from consumers.redis_store import Mark, RedisStore
from pipeline.commit import Change, Stored
from pipeline.errors import CommitError
from pipeline.events import Transactions
from pipeline.features import FeatureKernel, unusual_amounts
from pipeline.profiles import LearnedProfiles, MemoryProfiles, learned_table
from pipeline.stored_rows import sealed, unsealed
from stack.servers import Endpoints
from tests.strategies import CARD, MONDAY_MS, traffic, visits

pytestmark = pytest.mark.integration

KERNEL = FeatureKernel(CARD)
NEVER = ["r:terminal:m1", b"never"]


class Partition:
    """One partition's scorer, as far as profiles go."""

    def __init__(self, cache: ProfileCache, store: RedisStore, number: int) -> None:
        self._store, self._name = store, f"test:{number}"
        self._profiles = RedisProfiles(cache, number)
        self._steps = 0

    async def decide(self, batch: Transactions, *more: Change) -> NDArray[np.float32]:
        """Load, read and record, commit; gives the features."""
        await self._profiles.load(batch)
        features = KERNEL.read_and_record(batch, self._profiles.open(batch))
        await self.commit(self._profiles.changes(batch, unusual_amounts(features, CARD)), *more)
        return features

    async def look(self, batch: Transactions) -> NDArray[np.float32]:
        """Read and record without a commit, as before one that is refused."""
        await self._profiles.load(batch)
        return KERNEL.read_and_record(batch, self._profiles.open(batch))

    async def commit(self, changes: Sequence[Change], *more: Change) -> None:
        expected = str(self._steps) if self._steps else None
        self._steps += 1
        stored = Stored(str(self._steps), b"")
        assert await self._store.commit(self._name, expected, stored, [*changes, *more])


class World:
    """A Redis, and processes that work on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = RedisStore(url, retry_seconds_max=5)

    def process(self) -> ProfileCache:
        return ProfileCache(self.store, CARD)

    async def place(self) -> Mark:
        """Give the end of the log of additions, which nobody has trimmed."""
        return (await self.store.read(None, None, [], b"")).additions[-1].mark

    def partition(self, cache: ProfileCache, number: int) -> Partition:
        return Partition(cache, self.store, number)


def run(stack: Endpoints, story: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World(stack.redis_url)
        try:
            await story(world)
        finally:
            await world.store.close()

    asyncio.run(whole())


@pytest.fixture
def client(stack: Endpoints) -> Iterator[redis.Redis]:
    with redis.from_url(stack.redis_url) as client:
        client.flushall()
        yield client
        client.flushall()


def parts(batch: Transactions, seed: int) -> list[tuple[int, Transactions]]:
    """Cut a batch into small ones, each of one of two partitions, by its cards."""
    chance = np.random.default_rng(seed)
    found, start = [], 0
    while start < len(batch):
        end = min(len(batch), start + int(chance.integers(1, 40)))
        cut = batch.slice(start, end)
        homes = np.array([int(card[1:]) % 2 for card in cut.keys[0]])
        for number in (0, 1):
            rows = np.flatnonzero(homes == number)
            if len(rows):
                found.append((number, cut.take(rows)))
        start = end
    return found


def expected(batches: Sequence[Transactions]) -> tuple[list[bytes], MemoryProfiles]:
    """Give the features that one table in memory gives, and that table."""
    profiles = MemoryProfiles(CARD, LearnedProfiles(CARD))
    return [
        KERNEL.read_and_record(batch, profiles.open(batch)).tobytes() for batch in batches
    ], profiles


def assert_stored(
    client: redis.Redis, batches: Sequence[Transactions], memory: MemoryProfiles
) -> None:
    """Compare every row of Redis with that of the table in memory."""
    for batch in batches:
        view = memory.open(batch)
        number = int(batch.keys[0][0][1:]) % 2
        kinds = [
            (f"c:{number}:", batch.keys[0], view.traffic),
            ("r:terminal:", batch.keys[1], view.shared[0]),
            ("p:card:", batch.keys[0], view.probes[0]),
            ("p:terminal:", batch.keys[1], view.probes[1]),
        ]
        for prefix, ids, rows in kinds:
            for key, slot in zip(ids, rows.slots, strict=True):
                row = rows.values[slot].tobytes()
                stored = unsealed(prefix + key, client.get(prefix + key) or b"")
                assert stored[: len(row)] == row, prefix + key


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_processes_see_what_one_table_would_hold_whatever_is_written_back_or_forgotten(
    client: redis.Redis, stack: Endpoints, seed: int
) -> None:
    cut = parts(traffic(seed, 900), seed)
    batches = [batch for _, batch in cut]
    wanted, memory = expected(batches)
    chance = np.random.default_rng(seed)
    done = {"written back": 0, "forgotten": 0, "moved": 0, "refused": 0}

    async def story(world: World) -> None:
        processes = [world.process(), world.process()]
        owners = [world.partition(processes[number], number) for number in (0, 1)]
        for (number, batch), features in zip(cut, wanted, strict=True):
            luck = chance.random()
            if luck < 0.1:
                done["written back"] += await processes[int(chance.integers(2))].write_back()
            elif luck < 0.15:
                processes[int(chance.integers(2))].forget()
                done["forgotten"] += 1
            elif luck < 0.2:
                processes[int(chance.integers(2))] = world.process()
            elif luck < 0.3:
                moved = world.partition(processes[int(chance.integers(2))], number)
                moved._steps = owners[number]._steps
                owners[number] = moved
                done["moved"] += 1
            elif luck < 0.4:
                await owners[number].look(batch)
                done["refused"] += 1
            assert (await owners[number].decide(batch)).tobytes() == features

    run(stack, story)
    write_rows_back(stack.redis_url, CARD)

    assert min(done.values()) >= 1
    assert_stored(client, batches, memory)
    assert client.hget("shared", "folded") == client.hget("shared", "additions")


def test_batches_that_load_side_by_side_see_the_same(client: redis.Redis, stack: Endpoints) -> None:
    """Answers that overtake each other: no row is taken twice, none is older than the others."""
    cut = parts(traffic(5, 600), 5)
    wanted, memory = expected([batch for _, batch in cut])

    async def story(world: World) -> None:
        cache = world.process()
        owners = [world.partition(cache, number) for number in (0, 1)]
        for (number, batch), features in zip(cut, wanted, strict=True):
            looks = [owners[part].look(other) for part, other in cut[:4]]
            found, *_ = await asyncio.gather(
                owners[number].decide(batch), cache.write_back(), *looks
            )
            assert found.tobytes() == features

    run(stack, story)
    write_rows_back(stack.redis_url, CARD)

    assert_stored(client, [batch for _, batch in cut], memory)


def test_rows_are_written_back_and_the_log_is_cut_by_itself(
    client: redis.Redis, stack: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_profiles, "EVENTS_BEHIND_MAX", 100)
    monkeypatch.setattr("consumers.redis_store.ENTRIES_KEPT", 3)
    cut = parts(traffic(6, 900), 6)
    wanted, _ = expected([batch for _, batch in cut])

    async def story(world: World) -> None:
        cache, slow = world.process(), world.process()
        owners = [world.partition(cache, number) for number in (0, 1)]
        await slow.load(cut[0][1].keys, 0)
        for (number, batch), features in zip(cut, wanted, strict=True):
            assert (await owners[number].decide(batch)).tobytes() == features
            await cache.end()
        # Whoever was away for long begins anew.
        last = world.partition(slow, cut[-1][0])
        again, _ = expected([*[batch for _, batch in cut], cut[-1][1]])
        assert (await last.look(cut[-1][1])).tobytes() == again[-1]

    run(stack, story)

    assert int(client.hget("shared", "folded") or 0) > len(cut) // 2
    assert client.xlen("additions") < len(cut) // 2


def test_beyond_its_bytes_a_process_begins_anew(
    client: redis.Redis, stack: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_profiles, "CACHED_BYTES_MAX", 40_000)
    cut = parts(traffic(7, 900), 7)
    wanted, _ = expected([batch for _, batch in cut])
    lives = []

    async def story(world: World) -> None:
        cache = world.process()
        owners = [world.partition(cache, number) for number in (0, 1)]
        for (number, batch), features in zip(cut, wanted, strict=True):
            assert (await owners[number].decide(batch)).tobytes() == features
            await cache.end()
            lives.append(cache._life)

    run(stack, story)

    assert lives[-1] > len(cut) // 3
    assert int(client.hget("shared", "folded") or 0) > len(cut) // 2


def test_of_two_that_write_rows_back_one_is_refused(client: redis.Redis, stack: Endpoints) -> None:
    async def story(world: World) -> None:
        await world.partition(world.process(), 0).decide(visits([MONDAY_MS]))
        place = await world.place()
        assert await world.store.begin_writing("a", folded=0)
        assert await world.store.begin_writing("a", folded=0), "sent again after a time-out"
        assert not await world.store.begin_writing("b", folded=0)
        assert not await world.store.write_rows("b", NEVER, steps=0, place=place)
        assert not await world.store.end_writing("b", steps=0, place=place)
        assert await world.store.end_writing("a", steps=0, place=place)
        assert not await world.store.write_rows("a", NEVER, steps=0, place=place)
        assert not await world.store.begin_writing("b", folded=0), "they have been written"
        assert await world.store.begin_writing("b", folded=1)

    run(stack, story)

    assert client.get("r:terminal:m1") is None


def test_a_writer_that_died_gives_way(
    client: redis.Redis, stack: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.redis_store.WRITER_ENTRIES_MAX", 3)

    async def story(world: World) -> None:
        partition = world.partition(world.process(), 0)
        assert await world.store.begin_writing("dead", folded=0)
        for step in range(3):
            assert not await world.store.begin_writing("next", folded=0)
            await partition.decide(visits([MONDAY_MS + step]))
        assert await world.store.begin_writing("next", folded=0)
        place = await world.place()
        assert not await world.store.write_rows("dead", NEVER, steps=0, place=place)

    run(stack, story)


def test_what_is_learned_is_seen_at_once_with_the_offset_that_it_belongs_to(
    client: redis.Redis, stack: Endpoints
) -> None:
    batch = visits([MONDAY_MS, MONDAY_MS + 1], cards=["c1", "c2"], terminals=["m1", "m1"])

    def learned(step: int) -> list[Change]:
        table = learned_table()
        table.rows[table.slots(["c1"])[0]]["verdict_ms"] = step
        row = sealed("l:card:c1", table.blob("c1"))
        position = ("MSET", "pos:training", f"{step * 10}:{step}", "l:card:c1", row)
        return [position, taught_change(step, ["card"], [["c1"]])]

    async def story(world: World) -> None:
        trainer = world.partition(world.process(), 9)
        for process in (world.process(), world.process()):
            profiles = RedisProfiles(process, 0)
            for step in range(trainer._steps + 1, trainer._steps + 4):
                await trainer.commit(learned(step))
                await profiles.load(batch)
                view = profiles.open(batch)
                of_cards = view.learned[0].values[view.learned[0].slots]
                assert of_cards["verdict_ms"].tolist() == [step, 0]
                assert view.label_offset == step * 10
        with pytest.raises(CommitError, match="taught, shared or d:. in the store is damaged"):
            await trainer.commit([("XADD", "taught", "7-0", "by", "x", "keys", b"\xc1")])
            await profiles.load(batch)

    run(stack, story)


def copied(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def put_back(client: redis.Redis, kept: dict[bytes, bytes]) -> None:
    client.flushall()
    for key, value in kept.items():
        client.restore(key, 0, value)


def test_a_store_that_was_put_back_is_noticed(client: redis.Redis, stack: Endpoints) -> None:
    first, other = visits([MONDAY_MS], cards=["c2"]), visits([MONDAY_MS + 1] * 2, cards=["c4"] * 2)

    async def story(world: World) -> None:
        cache = world.process()
        await world.partition(cache, 0).decide(first)
        kept = copied(client)
        await world.partition(cache, 1).decide(visits([MONDAY_MS] * 3, cards=["c3"] * 3))
        await cache.load(first.keys, 0)
        put_back(client, kept)
        # The number that the cache stands at is given out again, to something else.
        await world.partition(world.process(), 1).decide(other)
        wanted, _ = expected([first, other, first])

        assert (await world.partition(cache, 0).look(first)).tobytes() == wanted[-1]

    run(stack, story)


def test_a_writer_whose_store_was_put_back_meanwhile_is_refused(
    client: redis.Redis, stack: Endpoints
) -> None:
    """The writer is in the copy as well; the rows that he has written since are not."""

    async def story(world: World) -> None:
        store, cache = world.store, world.process()
        owner = world.partition(cache, 0)
        await owner.decide(visits([MONDAY_MS]))
        place = await world.place()
        assert await store.begin_writing("a", folded=0)
        kept = copied(client)
        assert await store.write_rows("a", NEVER, steps=0, place=place)
        put_back(client, kept)
        assert not await store.end_writing("a", steps=1, place=place), "its rows are lost"

        # An addition that was lost with the exchange, and another of its number.
        await owner.decide(visits([MONDAY_MS + 1]))
        lost = await world.place()
        put_back(client, kept)
        await world.partition(world.process(), 1).decide(visits([MONDAY_MS + 2]))
        assert lost.number == (await world.place()).number
        assert not await store.write_rows("a", NEVER, steps=0, place=lost)
        assert not await store.end_writing("a", steps=0, place=lost)
        assert client.get(NEVER[0]) is None

        assert await store.write_rows("a", ["r:terminal:m1", b"row"], steps=0, place=place)
        assert await store.end_writing("a", steps=1, place=place)

    run(stack, story)

    assert client.hget("shared", "folded") == b"1"
    assert client.get("r:terminal:m1") == b"row"
