"""Redis holds the truth: positions, outboxes, profiles, decisions that wait for their label.

One script applies a commit: it compares the position and then makes all changes, or none. Keys:

    pos:NAME out:NAME      position and outbox of an input (`transactions:3`, `feedback:3`, ...)
    c:P:CARD               traffic row of the partition key, one writer: the owner of partition P
    t:ENTITY:ID            bucket ring of a shared entity, added to by every partition
    l:ENTITY:ID            learned row, one writer: the trainer; `pos:training` stands beside it
    w:P  v:P               waiting decisions and their verdicts, by transaction id
    wl:P ml:P              their order: not yet matured, and matured
    wm:P model:P           event-time watermark, model version in force
    review:P               alerts that wait for an analyst, by score
    pend:P ledger:P        labels that wait for their decision; what became of labels

All keys are of one primary: a commit may touch any of them.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pipeline.commit import Change, Stored, UnknownResultError
from pipeline.errors import SettingError

COMMAND_SECONDS_MAX = 5.0

# Redis' Lua puts at most some 8,000 values on its stack.
CHANGE_WORDS_MAX = 7000

COMMIT_SCRIPT = """
local position = redis.call('GET', KEYS[1])
if (position or '') ~= ARGV[1] then return 0 end

local function add_to_bucket(key, slot, bucket, count, amount)
    local first = slot * 16
    local stored = redis.call('GETRANGE', key, first, first + 15)
    local b, n, a = -1, 0, 0
    if #stored == 16 then b, n, a = struct.unpack('<i4i4i8', stored) end
    if b > bucket then return end
    if b < bucket then n, a = 0, 0 end
    redis.call('SETRANGE', key, first, struct.pack('<i4i4i8', bucket, n + count, a + amount))
end

local function forget(id, p)
    redis.call('HDEL', 'w:' .. p, id)
    redis.call('HDEL', 'v:' .. p, id)
    redis.call('ZREM', 'review:' .. p, id)
end

local custom = {}
function custom.BUCKETS(key, packed)
    for at = 1, #packed, 20 do
        add_to_bucket(key, struct.unpack('<i4i4i4i8', packed, at))
    end
end
-- Beyond the limit the oldest decision goes, matured ones before others.
function custom.LIMIT(p, limit)
    local excess = redis.call('LLEN', 'wl:' .. p) + redis.call('LLEN', 'ml:' .. p) - tonumber(limit)
    if excess <= 0 then return end
    for _ = 1, excess do
        forget(redis.call('LPOP', 'ml:' .. p) or redis.call('LPOP', 'wl:' .. p), p)
    end
    redis.call('HINCRBY', 'ledger:' .. p, 'expired', excess)
end
-- A decision that went meanwhile must not leave a verdict behind.
function custom.VERDICT(p, id, verdict)
    if redis.call('HEXISTS', 'w:' .. p, id) == 1 then
        redis.call('HSET', 'v:' .. p, id, verdict)
    end
    redis.call('ZREM', 'review:' .. p, id)
end
function custom.MATURED(p, id)
    if redis.call('LINDEX', 'wl:' .. p, 0) == id then
        redis.call('LPOP', 'wl:' .. p)
        redis.call('RPUSH', 'ml:' .. p, id)
    end
end

-- The changes follow each other: the number of words of one, then its words.
local at = 4
while at <= #ARGV do
    local last = at + tonumber(ARGV[at])
    local own = custom[ARGV[at + 1]]
    if own then own(unpack(ARGV, at + 2, last)) else redis.call(unpack(ARGV, at + 1, last)) end
    at = last + 1
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3])
return 1
"""


def connect(url: str, *, retries: int) -> Redis:
    """Open a connection pool; a command whose connection fails is sent again `retries` times."""
    return Redis.from_url(
        url,
        socket_timeout=COMMAND_SECONDS_MAX,
        socket_connect_timeout=COMMAND_SECONDS_MAX,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
    )


def as_bytes(answer: bytes | str | None) -> bytes:
    """Narrow an answer of a connection that decodes nothing; a missing value is empty."""
    assert not isinstance(answer, str)
    return answer or b""


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


class RedisStore:
    """Positions and outboxes in Redis, and the one script that moves them."""

    def __init__(self, url: str, *, retry_seconds_max: float) -> None:
        self._url = _without_password(url)
        self.redis = connect(url, retries=max(1, round(retry_seconds_max)))
        # A commit that is sent again after a time-out would be refused by its own first success.
        self._once = connect(url, retries=0)
        self._script = self._once.register_script(COMMIT_SCRIPT)

    async def check(self) -> None:
        """Refuse a Redis that does not answer, in words that say which."""
        try:
            await self.redis.ping()
        except RedisError as error:
            raise SettingError(
                f"no Redis answers at {self._url}: start it (fraudstream up), or set redis_url"
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
        await self._once.aclose()

    async def load(self, name: str) -> Stored:
        """Read an input's position and outbox in one command."""
        position, outbox = await self.redis.mget(f"pos:{name}", f"out:{name}")
        return Stored(None if position is None else as_bytes(position).decode(), as_bytes(outbox))

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """If the position is the expected one, store all and say so; else store nothing."""
        words: list[str | int | bytes] = [expected or "", stored.position or "", stored.outbox]
        for change in changes:
            assert len(change) <= CHANGE_WORDS_MAX, change[0]
            words += (len(change), *change)
        try:
            result = await self._script(keys=[f"pos:{name}", f"out:{name}"], args=words)
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise UnknownResultError(str(error)) from error
        return bool(result)
