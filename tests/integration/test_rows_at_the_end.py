"""Rows that are being written when a worker or a backfill stops: on a real Redis."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers import redis_profiles
from consumers.backfill import LEASE, Backfill
from consumers.redis_profiles import ProfileCache
from consumers.redis_store import RedisStore
from consumers.worker import Worker
from pipeline.keys import init_keys
from pipeline.settings import Settings
from stack.servers import Endpoints
from tests.integration.test_profile_log import Partition
from tests.strategies import CARD, traffic

pytestmark = pytest.mark.integration

Harm = Callable[[redis.Redis], None]
Process = Callable[[Settings, "Stop"], Coroutine[Any, Any, None]]
PAUSE_MS = 30_000


@dataclass
class Stop:
    """A process that stops while it writes rows back; `harm` is done to Redis before."""

    client: redis.Redis
    harm: Harm
    store: RedisStore | None = None

    async def begin(self, store: RedisStore, cache: ProfileCache) -> None:
        """Have so much added to the log that rows are written, and leave them at it."""
        self.store = store
        partition = Partition(cache, store, 0)
        for start in (0, 200):
            await partition.decide(traffic(5, 400).slice(start, start + 200))
        assert cache._writing is None
        await partition.look(traffic(5, 400))
        assert cache._writing is not None
        self.harm(self.client)

    def is_clean(self) -> bool:
        """Say whether the connection was closed, and the lease given back."""
        assert self.store is not None
        pool = self.store.redis.connection_pool
        is_open = any(item.is_connected for item in pool._available_connections)
        return not is_open and not pool._in_use_connections and not self.client.exists(LEASE)


async def worker(settings: Settings, stop: Stop) -> None:
    made = Worker(
        settings, CARD, kafka_servers=settings.kafka_servers, redis_url=settings.redis_url
    )
    await stop.begin(made._store, made._parts.profiles)
    await made._stop()


async def backfill(settings: Settings, stop: Stop) -> None:
    places = {"kafka_servers": settings.kafka_servers, "redis_url": settings.redis_url}
    async with Backfill(settings, CARD, **places) as made:
        await stop.begin(made.store, made._profiles)


def nothing(client: redis.Redis) -> None:
    """Let it go well."""


def another_type(client: redis.Redis) -> None:
    """Make every command of the write-back fail."""
    client.delete("shared")
    client.set("shared", "no hash")


def no_answer(client: redis.Redis) -> None:
    """Let no write be answered for longer than anybody waits."""
    client.client_pause(PAUSE_MS, all=False)


@pytest.fixture
def client(stack: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    monkeypatch.setattr(redis_profiles, "EVENTS_BEHIND_MAX", 300)
    monkeypatch.setattr(redis_profiles, "IDS_A_STEP", 4)
    with redis.from_url(stack.redis_url) as client:
        client.flushall()
        yield client
        client.client_unpause()
        client.flushall()


@pytest.fixture
def settings(stack: Endpoints, tmp_path: Path) -> Settings:
    given = Settings(
        state_dir=str(tmp_path), kafka_servers=stack.kafka_servers, redis_url=stack.redis_url
    )
    init_keys(given.keys_path)
    return given


@pytest.mark.parametrize("process", [worker, backfill])
def test_rows_that_are_being_written_are_written_to_the_end(
    process: Process,
    settings: Settings,
    client: redis.Redis,
) -> None:
    stop = Stop(client, nothing)

    asyncio.run(process(settings, stop))

    assert int(client.hget("shared", "folded") or 0) == 2
    assert stop.is_clean()


@pytest.mark.parametrize("process", [worker, backfill])
def test_a_failure_to_write_rows_leaves_the_rest_of_the_end_as_it_is(
    process: Process,
    settings: Settings,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = Stop(client, another_type)

    with caplog.at_level(logging.WARNING):
        asyncio.run(process(settings, stop))

    assert "rows are left to write: " in caplog.text
    assert stop.is_clean()


def test_nobody_waits_long_for_rows(
    settings: Settings,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_profiles, "END_SECONDS_MAX", 0.3)
    started = time.monotonic()

    with caplog.at_level(logging.WARNING):
        asyncio.run(worker(settings, Stop(client, no_answer)))

    assert "rows are left to write: not done in 0.3 s" in caplog.text
    assert time.monotonic() - started < PAUSE_MS / 1000 / 2
