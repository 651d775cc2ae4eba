"""The client of Redis: it tries again for so long, names a key of a foreign kind, packs in C."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ResponseError

from pipeline.stored_rows import damaged
from stack.redis_clients import redis_connection

T = TypeVar("T")

COMMAND_SECONDS_MAX = 5.0


class _Packing:
    """A connection that packs a command at once, where the client's own does it word by word."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Give the bytes of a command; its name may be of two words."""
        name = args[0].encode() if isinstance(args[0], str) else args[0]
        return [hiredis.pack_command((*name.split(), *args[1:]))]


class NamingRedis(Redis):
    """A client whose error about a foreign kind of value says which key it is."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command."""
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE") and "script" not in str(error):
                raise damaged(str(args[1]), f"{args[0]} finds another kind of value") from error
            raise


class _RetryFor(Retry):
    """Sends a command whose connection fails again, for so many seconds from its first failure."""

    def __init__(self, seconds: float) -> None:
        super().__init__(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries=-1)
        self._seconds = seconds

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """Call; the client's own judgement of an error counts as well."""
        deadline: float | None = None

        def in_time(error: Exception) -> bool:
            nonlocal deadline
            deadline = deadline or time.monotonic() + self._seconds
            return time.monotonic() < deadline and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, fail, in_time, with_failure_count)


def connect(url: str, *, retry_seconds: float) -> Redis:
    """Open a connection pool; a command whose connection fails is sent again for so long."""
    client: Redis = NamingRedis.from_url(
        **redis_connection(url),
        socket_timeout=COMMAND_SECONDS_MAX,
        socket_connect_timeout=COMMAND_SECONDS_MAX,
        retry=_RetryFor(retry_seconds),
    )
    pool = client.connection_pool
    kind = pool.connection_class
    pool.connection_class = type(kind.__name__, (_Packing, kind), {})
    return client


def as_bytes(answer: bytes | str | None) -> bytes:
    """Narrow an answer of a connection that decodes nothing; a missing value is empty."""
    assert not isinstance(answer, str)
    return answer or b""
