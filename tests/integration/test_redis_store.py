"""The protocol on a real Redis: the script compares, and stores all or nothing."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from consumers.redis_store import RedisStore
from pipeline.commit import Input, OutboxRecord, Stored
from pipeline.errors import CommitError
from stack.processes import identify, start, stop
from stack.store_server import prepare_store
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Published:
    """Keeps what is published; `is_broken`: nothing is."""

    def __init__(self) -> None:
        self.records: list[OutboxRecord] = []
        self.is_broken = False

    async def __call__(self, records: Sequence[OutboxRecord]) -> asyncio.Future[list[int]]:
        if self.is_broken:
            raise ConnectionError
        first = len(self.records)
        self.records += records
        done: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        done.set_result(list(range(first, len(self.records))))
        return done


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("store")
    launch = prepare_store(folder, print)
    started = start(launch.command, folder=launch.folder, log=launch.log, attached=True)
    wait_until(launch.is_ready, "Redis answers")
    yield launch.address
    identity = identify(started.process.pid)
    assert identity is not None
    stop([identity])
    started.release()


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def store(url: str, run: Run) -> Iterator[RedisStore]:
    store = RedisStore(url, retry_seconds_max=2)
    run(store.redis.flushall())
    yield store
    run(store.close())


def owned(store: RedisStore, publish: Published, run: Run, owner: str) -> Input:
    taken = Input(store, publish, name="transactions:3", owner=owner)
    run(taken.recover())
    return taken


def record(key: str) -> OutboxRecord:
    return OutboxRecord("decisions", 3, key.encode(), b"v", [("h", b"\xff")])


def test_a_stale_commit_is_refused_and_changes_nothing(store: RedisStore, run: Run) -> None:
    publish = Published()
    zombie, owner = owned(store, publish, run, "zombie"), owned(store, publish, run, "owner")
    assert run(owner.commit("5:0", [record("a")], [("SET", "c:3:x", "row"), ("INCR", "n")]))

    assert not run(zombie.commit("3:0", [record("z")], [("SET", "c:3:x", "bad"), ("INCR", "n")]))

    assert zombie.position == "5:0"
    assert run(store.redis.mget("pos:transactions:3", "c:3:x", "n")) == [b"5:0", b"row", b"1"]
    # The owner's outbox came again, and nothing of the zombie's.
    assert publish.records == [record("a")] * 2


def test_a_new_owner_publishes_what_the_last_one_committed(store: RedisStore, run: Run) -> None:
    publish = Published()
    dead = owned(store, publish, run, "dead")
    publish.is_broken = True
    with pytest.raises(ConnectionError):
        run(dead.commit("5:0", [record("a"), record("b")], []))
    assert publish.records == []
    publish.is_broken = False

    assert owned(store, publish, run, "next").position == "5:0"

    assert publish.records == [record("a"), record("b")]


@pytest.mark.parametrize("expected", ["4:0", "5:1", "5", "5:00", None])
def test_only_the_very_position_is_stepped_on_from(
    store: RedisStore, run: Run, expected: str | None
) -> None:
    run(owned(store, Published(), run, "owner").commit("5:0", [], []))

    assert not run(store.commit("transactions:3", expected, Stored("6:0", b"x"), [("INCR", "n")]))
    assert run(store.load("transactions:3")).position == "5:0"
    assert run(store.redis.get("n")) is None


def test_a_change_that_fails_moves_no_position(store: RedisStore, run: Run) -> None:
    taken = owned(store, Published(), run, "owner")

    with pytest.raises(CommitError, match="broke off halfway"):
        run(taken.commit("5:0", [], [("SET", "x", "1"), ("HSET", "x", "f", "1")]))

    assert run(store.position("transactions:3")) is None
    with pytest.raises(CommitError, match="torn:transactions:3"):
        run(store.load("transactions:3"))
