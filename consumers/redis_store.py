"""Redis holds the truth: positions, outboxes, profiles, the index of what waits for a label.

One script applies a commit: it compares the position and then makes all changes, or none. Keys:

    pos:NAME out:NAME      position and outbox of an input (`transactions:3`, `feedback:3`, ...)
    c:P:CARD               traffic row of the partition key, one writer: the owner of partition P
    r:ENTITY:ID            bucket ring of a shared entity, added to by every partition
    l:ENTITY:ID            learned row, one writer: the trainer; `pos:training` stands beside it
    w:P:BUCKET             entries of the index of waiting decisions (`pipeline/waiting_index.py`)
    index:P                its `entries`, the newest `offset` it holds, where the `sweep` stands
    wm:P wi:P model:P      event-time watermark, that of what is indexed, model version in force
    review:P alert:P       alerts that wait for an analyst, by score, and what was decided
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
from pipeline.version_fold import split_version

COMMAND_SECONDS_MAX = 5.0

# Redis' Lua puts at most some 8,000 values on its stack.
CHANGE_WORDS_MAX = 7000

COMMIT_SCRIPT = """
local position = redis.call('GET', KEYS[1])
if (position or '') ~= ARGV[1] then return 0 end

local function add_to_bucket(key, slot, bucket, count, amount, unusual)
    local first = slot * 20
    local stored = redis.call('GETRANGE', key, first, first + 19)
    local b, n, a, u = -1, 0, 0, 0
    if #stored == 20 then b, n, a, u = struct.unpack('<i4i4i8i4', stored) end
    if b > bucket then return end
    if b < bucket then n, a, u = 0, 0, 0 end
    redis.call('SETRANGE', key, first,
        struct.pack('<i4i4i8i4', bucket, n + count, a + amount, u + unusual))
end

local custom = {}
function custom.BUCKETS(key, packed)
    for at = 1, #packed, 24 do
        add_to_bucket(key, struct.unpack('<i4i4i4i8i4', packed, at))
    end
end

-- The index of waiting decisions. An entry: offset (6 bytes), outcome (1; 128 and more: nothing was
-- decided yet), verdict. Offset, outcome and verdict each have a writer of their own.
function custom.INDEX(p, newest, packed)
    local added = 0
    for at = 1, #packed, 14 do
        local key = 'w:' .. p .. ':' .. struct.unpack('<I2', packed, at)
        local field, offset = packed:sub(at + 2, at + 7), packed:sub(at + 8, at + 13)
        if redis.call('HSETNX', key, field, offset .. '\0') == 1 then
            added = added + 1
        else
            local old = redis.call('HGET', key, field)
            local outcome = string.char(old:byte(7) % 128)
            redis.call('HSET', key, field, offset .. outcome .. old:sub(8))
        end
    end
    redis.call('HINCRBY', 'index:' .. p, 'entries', added)
    redis.call('HSET', 'index:' .. p, 'offset', newest)
end
function custom.VERDICT(p, id, bucket, field, verdict)
    local key = 'w:' .. p .. ':' .. bucket
    local old = redis.call('HGET', key, field)
    -- An entry that went meanwhile stays away: its decision is too old.
    if old then redis.call('HSET', key, field, old:sub(1, 7) .. verdict) end
    redis.call('ZREM', 'review:' .. p, id)
    redis.call('HDEL', 'alert:' .. p, id)
end
function custom.OUTCOME(p, bucket, field, outcome)
    local key = 'w:' .. p .. ':' .. bucket
    local old = redis.call('HGET', key, field)
    if old then
        local undecided = old:byte(7) - old:byte(7) % 128
        redis.call('HSET', key, field, old:sub(1, 6) .. string.char(undecided + outcome)
            .. old:sub(8))
        return
    end
    -- It came before its decision, and leaves the index as if that had been decided now.
    local newest = tonumber(redis.call('HGET', 'index:' .. p, 'offset') or '0')
    redis.call('HSET', key, field, struct.pack('<I6', newest) .. string.char(128 + outcome))
    redis.call('HINCRBY', 'index:' .. p, 'entries', 1)
end
-- Looks through so many buckets, from where the sweep before ended, for what is below the floor.
function custom.SWEEP(p, floor, count, buckets)
    local index = 'index:' .. p
    local first = tonumber(redis.call('HGET', index, 'sweep') or '0')
    local removed, expired = 0, 0
    for bucket = first, first + count - 1 do
        local key = 'w:' .. p .. ':' .. bucket % buckets
        local entries = redis.call('HGETALL', key)
        for at = 1, #entries, 2 do
            local entry = entries[at + 1]
            if struct.unpack('<I6', entry) < tonumber(floor) then
                redis.call('HDEL', key, entries[at])
                removed = removed + 1
                if #entry == 7 then expired = expired + 1 end
            end
        end
    end
    redis.call('HSET', index, 'sweep', (first + count) % buckets)
    redis.call('HINCRBY', index, 'entries', 0 - removed)
    redis.call('HINCRBY', 'ledger:' .. p, 'expired', expired)
end
-- Beyond the limit the alert of the lowest score goes.
function custom.ALERTS(p, limit)
    local excess = redis.call('ZCARD', 'review:' .. p) - limit
    if excess <= 0 then return end
    local gone = redis.call('ZPOPMIN', 'review:' .. p, excess)
    for at = 1, #gone, 2 do redis.call('HDEL', 'alert:' .. p, gone[at]) end
    redis.call('HINCRBY', 'ledger:' .. p, 'alerts_dropped', excess)
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


# Reads entries of the index as of one moment, with the newest offset that it holds.
ENTRIES_SCRIPT = """
local p, packed = ARGV[1], ARGV[2]
local found = {redis.call('HGET', 'index:' .. p, 'offset')}
for at = 1, #packed, 8 do
    local key = 'w:' .. p .. ':' .. struct.unpack('<I2', packed, at)
    found[#found + 1] = redis.call('HGET', key, packed:sub(at + 2, at + 7))
end
return found
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
        self._entries = self.redis.register_script(ENTRIES_SCRIPT)

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

    async def adopted_offset(self, partitions: int) -> int:
        """Give the highest training offset of a version that was in force; 0 where none was."""
        stored = await self.redis.mget([f"model:{partition}" for partition in range(partitions)])
        found = (split_version(as_bytes(version).decode()) for version in stored if version)
        return max((parts[1] for parts in found if parts), default=0)

    async def entries(self, partition: int, packed: bytes) -> tuple[int, list[bytes | None]]:
        """Give the newest offset of an index (-1: none), and what stands at these places of it."""
        newest, *found = await self._entries(args=[partition, packed])
        return -1 if newest is None else int(newest), found

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
