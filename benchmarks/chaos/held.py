"""What Redis holds at the end of a run: asked as it is needed, or taken down whole.

The copy is for runs that judge the same end many times, and for tests that spoil it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from redis import Redis

from consumers.redis_profiles import ProfileCache
from consumers.redis_store import RedisStore
from pipeline.schema import Schema

ASKED_AT_ONCE = 5_000


def write_rows_back(url: str, schema: Schema) -> None:
    """Bring all rows to the end of the log, as workers do in their time, so that they can be seen.

    A writer that died at it is not waited for.
    """

    async def whole() -> None:
        store = RedisStore(url, retry_seconds_max=10.0)
        await store.redis.hdel("shared", "writer")
        cache = ProfileCache(store, schema)
        await cache.load([[] for _ in schema.keyed], 0)
        await cache.write_back()
        await store.close()

    asyncio.run(whole())


class Held(Protocol):
    """Reads what is stored."""

    def strings(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the value of each key."""

    def hash(self, key: str) -> dict[bytes, bytes]:
        """Give the fields of a hash; of none where there is none."""

    def count(self, prefix: str) -> int:
        """Give how many keys begin so."""


class LiveStore:
    """Redis as it is now."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def strings(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the value of each key."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), ASKED_AT_ONCE):
            found += self._redis.mget(keys[start : start + ASKED_AT_ONCE])
        return found

    def hash(self, key: str) -> dict[bytes, bytes]:
        """Give the fields of a hash; of none where there is none."""
        found: dict[bytes, bytes] = self._redis.hgetall(key)
        return found

    def count(self, prefix: str) -> int:
        """Give how many keys begin so."""
        return sum(1 for _ in self._redis.scan_iter(f"{prefix}*", count=5_000))


class CopiedStore:
    """Redis as it was."""

    def __init__(self, values: dict[str, bytes], hashes: dict[str, dict[bytes, bytes]]) -> None:
        self.values, self.hashes = values, hashes

    @classmethod
    def of(cls, redis: Redis) -> "CopiedStore":
        """Take down all strings and hashes but the index of what waits for a label."""
        client: Any = redis
        values, hashes = {}, {}
        for raw in client.scan_iter(count=5_000):
            key = raw.decode()
            if key.startswith("w:"):
                continue
            kind = client.type(key)
            if kind == b"string":
                values[key] = client.get(key)
            elif kind == b"hash":
                hashes[key] = client.hgetall(key)
        return cls(values, hashes)

    def strings(self, keys: Sequence[str]) -> list[bytes | None]:
        """Give the value of each key."""
        return [self.values.get(key) for key in keys]

    def hash(self, key: str) -> dict[bytes, bytes]:
        """Give the fields of a hash; of none where there is none."""
        return self.hashes.get(key, {})

    def count(self, prefix: str) -> int:
        """Give how many keys begin so."""
        return sum(key.startswith(prefix) for key in self.values)
