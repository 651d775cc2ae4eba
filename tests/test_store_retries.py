"""How long the store's client tries: a setting in seconds."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from consumers.redis_client import connect


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_a_store_that_is_not_there_is_asked_for_as_long_as_is_said(
    tmp_path: Path, seconds: float
) -> None:
    async def ask() -> None:
        redis = connect(f"unix://{tmp_path}/none.sock", retry_seconds=seconds)
        try:
            await redis.ping()
        finally:
            await redis.aclose()

    started = time.monotonic()
    with pytest.raises(RedisConnectionError):
        asyncio.run(ask())

    assert seconds <= time.monotonic() - started < seconds + 5.0
