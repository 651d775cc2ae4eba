"""Damage in a real Redis: whoever reads it stops and names the key, before anything is changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pytest
import redis

from consumers.labeller import load_pending
from consumers.redis_profiles import ProfileCache, RedisProfiles, taught_change
from consumers.redis_store import RedisStore
from consumers.waiting_store import index_changes, load_entries, verdict_changes
from pipeline.commit import Change, OutboxRecord, Stored
from pipeline.errors import CommitError
from pipeline.profiles import learned_table
from pipeline.records import encode_record
from pipeline.stored_rows import sealed, unsealed
from pipeline.topics import DECISIONS
from pipeline.verdicts import settle
from pipeline.waiting_index import place_of
from stack.servers import Endpoints
from tests.armour.damage import DAMAGE, Damage
from tests.strategies import CARD, MONDAY_MS, decision, label, visits

pytestmark = [pytest.mark.integration]

NAME = "transactions:0"
BATCH = visits([MONDAY_MS, MONDAY_MS + 1], cards=["c1", "c2"], terminals=["m1", "m2"])


class Kept:
    """A store as a scorer and a labeller of partition 0 leave it, and the trainer."""

    def __init__(self, url: str) -> None:
        self.store = RedisStore(url, retry_seconds_max=1.0)
        self.profiles = RedisProfiles(ProfileCache(self.store, CARD), 0)

    async def fill(self) -> None:
        """Commit two events twice, between which rows are written back, and a label that waits."""
        cache = ProfileCache(self.store, CARD)
        profiles = RedisProfiles(cache, 0)
        unusual = np.array([0, 1], dtype=np.int8)
        record = OutboxRecord(DECISIONS, 0, b"t1", encode_record(decision("t1")))
        _, verdict = settle(None, label(), training_seq=0)
        row = learned_table()
        row.slots(["c1"])
        changes: list[Change] = [
            *profiles.changes(BATCH, unusual),
            *index_changes(0, [(record, 5)], limit=100),
            *verdict_changes(0, {"t2": verdict}),
            ("MSET", "l:card:c1", sealed("l:card:c1", row.blob("c1")), "pos:training", "7:1"),
            ("HSET", "pend:0", "t1/l1", sealed("pend:0 t1/l1", b"\x93\x01\xc0\xc4\x01x")),
            ("HINCRBY", "ledger:0", "learned", 1),
            taught_change(1, ["card"], [["c1"]]),
        ]
        assert await self.store.commit(NAME, None, Stored("1:0", b"outbox"), changes)
        await profiles.load(BATCH)
        assert await cache.write_back()
        changes = [*profiles.changes(BATCH, unusual), taught_change(2, [], [])]
        assert await self.store.commit(NAME, "1:0", Stored("2:0", b"outbox"), changes)

    async def read_profiles(self) -> None:
        await self.profiles.load(BATCH)

    async def read_store(self) -> None:
        await self.store.load(NAME)

    async def read_index(self) -> None:
        await load_entries(self.store, 0, ["t1"])

    async def read_pending(self) -> None:
        await load_pending(self.store.redis, 0)

    async def commit_more(self) -> None:
        """Commit as one does who read the rows before they were damaged."""
        changes: list[Change] = [
            ("MSET", "c:0:c9", b"row"),
            ("ADDED", "name", b"rows"),
            ("HINCRBY", "ledger:0", "learned", 1),
        ]
        await self.store.commit(NAME, "2:0", Stored("3:0", b"outbox"), changes)


def run(url: str, work: Callable[[Kept], Awaitable[None]]) -> None:
    async def whole() -> None:
        kept = Kept(url)
        try:
            await work(kept)
        finally:
            await kept.store.close()

    asyncio.run(whole())


@pytest.fixture
def client(stack: Endpoints) -> Iterator[redis.Redis]:
    with redis.from_url(stack.redis_url) as client:
        client.flushall()
        run(stack.redis_url, Kept.fill)
        yield client
        client.flushall()


def damage(client: redis.Redis, row: Damage) -> None:
    """Do what a row says."""
    key, field = row.key, row.field
    if key == "w:0":
        place = place_of("t1")
        key, field = f"w:0:{place.bucket}", place.field
    if key == "additions" and row.change not in ("missing", "list"):
        damage_last_entry(client, row)
        return
    is_replaced = row.change in ("missing", "list")
    before = b"" if is_replaced else client.hget(key, field) if field else client.get(key)
    if row.change == "missing":
        assert client.delete(key)
    elif row.change == "list":
        assert client.delete(key)
        client.rpush(key, "x")
    else:
        after = row.change(before) if callable(row.change) else row.change
        if field:
            client.hset(key, field, after)
        else:
            client.set(key, after)


def damage_last_entry(client: redis.Redis, row: Damage) -> None:
    """Do to the last entry of a log what a row says."""
    entries = client.xrange(row.key)
    client.delete(row.key)
    _, last = entries[-1]
    last[b"rows"] = row.change(last[b"rows"]) if callable(row.change) else row.change
    for name, fields in entries:
        client.xadd(row.key, fields, name)


def dump(client: redis.Redis) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter(count=1_000)}


READERS: dict[str, Callable[[Kept], Awaitable[None]]] = {
    "profiles": Kept.read_profiles,
    "store": Kept.read_store,
    "index": Kept.read_index,
    "pending": Kept.read_pending,
    "commit": Kept.commit_more,
}


@pytest.mark.parametrize("reader", ["profiles", "store", "index"])
def test_what_is_whole_is_read(client: redis.Redis, stack: Endpoints, reader: str) -> None:
    run(stack.redis_url, READERS[reader])


@pytest.mark.parametrize("row", DAMAGE, ids=lambda row: row.name)
def test_damage_is_named_and_nothing_is_changed(
    client: redis.Redis, stack: Endpoints, row: Damage
) -> None:
    damage(client, row)
    before = dump(client)

    if not row.said:
        run(stack.redis_url, READERS[row.reader])
        return
    with pytest.raises(CommitError) as caught:
        run(stack.redis_url, READERS[row.reader])

    said = str(caught.value)
    assert row.said in said
    assert "docs/operations.md" in said
    if "torn:" in said:
        return
    # A position is read with its outbox: either may be the one that was changed.
    assert row.key.partition(":")[2] in said
    assert dump(client) == before


def test_after_a_commit_that_broke_off_halfway_nobody_goes_on(
    client: redis.Redis, stack: Endpoints
) -> None:
    client.hset("ledger:0", "learned", "many")
    with pytest.raises(CommitError, match=f"torn:{NAME} in the store is damaged"):
        run(stack.redis_url, Kept.commit_more)

    with pytest.raises(CommitError, match=f"torn:{NAME} in the store is damaged"):
        run(stack.redis_url, Kept.read_store)


def test_a_row_under_the_key_of_another_is_noticed(client: redis.Redis, stack: Endpoints) -> None:
    client.set("c:0:c1", client.get("c:0:c2"))

    with pytest.raises(CommitError, match="c:0:c1 in the store is damaged: its checksum"):
        run(stack.redis_url, Kept.read_profiles)


def test_every_single_bit_of_a_row_is_covered() -> None:
    stored = sealed("c:0:c1", bytes(range(40)))
    for bit in range(len(stored) * 8):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CommitError):
            unsealed("c:0:c1", bytes(changed))
