"""Redis holds the truth: positions, outboxes, profiles, the index of what waits for a label.

One script applies a commit: it compares the position and then makes all changes, or none. Keys:

    pos:NAME out:NAME      position and outbox of an input (`transactions:3`, `feedback:3`, ...)
    c:P:CARD               traffic row of the partition key, one writer: the owner of partition P
    r:ENTITY:ID            bucket ring of a shared entity, added to by every partition
    p:ENTITY:ID            row of card testing, added to by every partition, where the schema asks
    l:ENTITY:ID            learned row, one writer: the trainer; `pos:training` stands beside it
    w:P:BUCKET             entries of the index of waiting decisions (`pipeline/waiting_index.py`)
    index:P                its `entries`, the newest `offset` it holds, where the `sweep` stands
    breaker:P              the window of the breaker (`pipeline/breaker.py`)
    wm:P wi:P model:P      event-time watermark, that of what is indexed, model version in force
    d:BUCKET               ids decided lately, of all partitions (`pipeline/recent_ids.py`)
    ids                    their number (`entries`), where the `sweep` stands, what was `dropped`
    review:P alert:P       alerts that wait for an analyst, by score, and what was decided
    te:P again:P           an end of the training log, what a restored store had forgotten of it
    place:training         how many examples the trainer has learned, and their last numbers
    pend:P ledger:P        labels that wait for their decision; what became of labels
    torn:NAME              why a commit of an input broke off halfway; nobody goes on from there
    backfill               what history was read before the first position (`backfill_run.py`)

Rows of `c:`, `l:` and `breaker:`, outboxes and labels of `pend:` carry a version and a checksum; an
outbox's is of its position as well (`pipeline/stored_rows.py`).

All keys are of one primary: a commit may touch any of them.
"""

import asyncio
import re
from collections.abc import Sequence

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from consumers.redis_client import as_bytes, connect
from consumers.redis_types import CHECK_SCRIPT, FOREIGN, check_missing
from pipeline.commit import Change, Stored, UnknownResultError
from pipeline.errors import CommitError, SettingError
from pipeline.stored_rows import damaged, sealed, unsealed
from pipeline.version_fold import split_version
from stack.redis_clients import redis_problem

# Stands for the position of an input while history is read in its place: nobody may begin there.
HISTORY = b"history"

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

-- Card testing (PROBES of pipeline/profiles.py): 25 hours of 16 bytes, then 4 sketches of 68.
local function add_probe(key, hour, small, declined, place)
    local first = hour % 25 * 16
    local stored = redis.call('GETRANGE', key, first, first + 15)
    local b, n, s, d = -1, 0, 0, 0
    if #stored == 16 then b, n, s, d = struct.unpack('<i4i4i4i4', stored) end
    if b < hour then n, s, d = 0, 0, 0 end
    if b <= hour then
        redis.call('SETRANGE', key, first,
            struct.pack('<i4i4i4i4', hour, n + 1, s + small, d + declined))
    end
    first = 400 + hour % 4 * 68
    stored = redis.call('GETRANGE', key, first, first + 3)
    b = -1
    if #stored == 4 then b = struct.unpack('<i4', stored) end
    if b < hour then
        redis.call('SETRANGE', key, first, struct.pack('<i4', hour) .. string.rep('\0', 64))
    end
    if b <= hour then redis.call('SETBIT', key, (first + 4) * 8 + place, 1) end
end
function custom.PROBES(key, packed)
    for at = 1, #packed, 16 do
        add_probe(key, struct.unpack('<i4i4i4i4', packed, at))
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
-- The ids of a batch: bucket (2 bytes), field (6), entry (10), and the entry that was found there
-- before (10; zeros: none). Where another stands by now, another partition was faster: the commit
-- is refused, and nothing of it may stay.
local function release(packed, last)
    for at = 1, last, 28 do
        local key, field = 'd:' .. struct.unpack('<I2', packed, at), packed:sub(at + 2, at + 7)
        local before = packed:sub(at + 18, at + 27)
        if before == string.rep('\0', 10) then
            redis.call('HDEL', key, field)
        else
            redis.call('HSET', key, field, before)
        end
    end
end
-- Looks through so many buckets. What every partition has left behind goes, and beyond the limit
-- the oldest: more of them the further beyond, so that a tenth more than the limit is never passed.
local function sweep_ids(count, partitions, window_ms, limit, entries)
    local watermark
    for p = 0, partitions - 1 do
        local found = tonumber(redis.call('GET', 'wm:' .. p) or nil)
        if found and (not watermark or found < watermark) then watermark = found end
    end
    local floor = math.floor(((watermark or 0) - window_ms) / 1000)
    local first = tonumber(redis.call('HGET', 'ids', 'sweep') or '0')
    local is_beyond = entries > limit
    local kept = {}
    for bucket = first, first + count - 1 do
        local key = 'd:' .. bucket % 65536
        local found = redis.call('HGETALL', key)
        for at = 1, #found, 2 do
            local seconds = struct.unpack('<I4', found[at + 1])
            if seconds < floor then
                redis.call('HDEL', key, found[at])
                entries = entries - 1
            elseif is_beyond then
                kept[#kept + 1] = {seconds, key, found[at]}
            end
        end
    end
    local excess = entries - limit
    local dropped = math.max(0, math.min(excess, math.ceil(#kept * 16 * excess / entries)))
    if dropped > 0 then
        dropped = math.min(dropped, #kept)
        table.sort(kept, function(a, b) return a[1] < b[1] end)
        for at = 1, dropped do redis.call('HDEL', kept[at][2], kept[at][3]) end
        redis.call('HINCRBY', 'ids', 'dropped', dropped)
    end
    redis.call('HSET', 'ids', 'sweep', (first + count) % 65536, 'entries', entries - dropped)
end
function custom.IDS(packed, partitions, window_ms, limit)
    local added = 0
    for at = 1, #packed, 28 do
        local key, field = 'd:' .. struct.unpack('<I2', packed, at), packed:sub(at + 2, at + 7)
        local entry = packed:sub(at + 8, at + 17)
        if redis.call('HSETNX', key, field, entry) == 1 then
            added = added + 1
        elseif redis.call('HGET', key, field) == packed:sub(at + 18, at + 27) then
            redis.call('HSET', key, field, entry)
        else
            release(packed, at - 1)
            return false
        end
    end
    local entries = redis.call('HINCRBY', 'ids', 'entries', added)
    limit = tonumber(limit)
    -- Every entry is looked at once while half of their number comes, or of a million.
    local slowest = math.max(entries, math.min(limit, 1000000))
    local count = math.min(math.ceil(2 * added * 65536 / slowest), 65536)
    sweep_ids(count, tonumber(partitions), tonumber(window_ms), limit, entries)
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
    -- Only the first change may refuse.
    if own then
        if own(unpack(ARGV, at + 2, last)) == false then return 0 end
    else
        redis.call(unpack(ARGV, at + 1, last))
    end
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

# Finds ids that were decided lately: the number of each in the list, and its entry.
IDS_SCRIPT = """
local packed, found = ARGV[1], {}
for at = 1, #packed, 8 do
    local key = 'd:' .. struct.unpack('<I2', packed, at)
    local entry = redis.call('HGET', key, packed:sub(at + 2, at + 7))
    if entry then
        found[#found + 1] = (at - 1) / 8
        found[#found + 1] = entry
    end
end
return found
"""


def stored_number(key: str, answer: bytes | str | None) -> int:
    """Read a whole number that stands under a key; 0 where nothing does."""
    text = as_bytes(answer)
    try:
        return int(text or 0)
    except ValueError:
        raise damaged(key, f"it holds {_shown(text)}, expected a whole number") from None


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("utf-8", "replace"))


_POSITION = re.compile(rb"-?[0-9]{1,19}(?::[0-9]{1,19})*")


def _outbox_key(name: str, position: str | None) -> str:
    # A position that was changed alone fits no outbox.
    return f"out:{name} of {position}"


class RedisStore:
    """Positions and outboxes in Redis, and the one script that moves them."""

    def __init__(self, url: str, *, retry_seconds_max: float) -> None:
        self._url = url
        self.redis = connect(url, retry_seconds=retry_seconds_max)
        # A commit that is sent again after a time-out would be refused by its own first success.
        self._once = connect(url, retry_seconds=0.0)
        self._script = self._once.register_script(CHECK_SCRIPT + COMMIT_SCRIPT)
        self._entries = self.redis.register_script(ENTRIES_SCRIPT)
        self._ids = self.redis.register_script(IDS_SCRIPT)

    async def check(self) -> None:
        """Refuse a Redis that does not answer, in words that say which."""
        try:
            await self.redis.ping()
        except (RedisError, OSError) as error:
            raise SettingError(await asyncio.to_thread(redis_problem, self._url, error)) from error

    async def close(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
        await self._once.aclose()

    async def load(self, name: str) -> Stored:
        """Read an input's position and outbox in one command; what is damaged is an error."""
        keys = [f"pos:{name}", f"out:{name}", f"torn:{name}"]
        found = await self.redis.mget(keys)
        missing = [key for key, item in zip(keys, found, strict=True) if item is None]
        await check_missing(self.redis, missing)
        position, outbox, torn = map(as_bytes, found)
        if torn:
            raise damaged(keys[2], f"a commit broke off halfway: {torn.decode(errors='replace')}")
        # A commit sets both; an outbox that is lost may never have been published.
        if found[0] is None and found[1] is None:
            return Stored(None, b"")
        if position == HISTORY:
            raise CommitError(
                f"{name} cannot be worked on yet: history is read into this store, and its "
                "cut-over is not made (the same `fraudstream backfill` goes on with it)"
            )
        if not _POSITION.fullmatch(position):
            raise damaged(keys[0], f"it holds {_shown(position)}, expected a position")
        text = position.decode()
        try:
            return Stored(text, unsealed(_outbox_key(name, text), outbox))
        except CommitError as error:
            raise damaged(keys[1], f"it does not belong to position {text}") from error

    async def position(self, name: str) -> str | None:
        """Read an input's position alone."""
        position = await self.redis.get(f"pos:{name}")
        return None if position is None else as_bytes(position).decode()

    def placed(self, name: str, position: str) -> Change:
        """Give the change that sets an input's position, with nothing left to publish."""
        outbox = sealed(_outbox_key(name, position), b"")
        return ("MSET", f"pos:{name}", position, f"out:{name}", outbox)

    async def adopted_offset(self, partitions: int) -> int:
        """Give the highest training offset of a version that was in force; 0 where none was."""
        stored = await self.redis.mget([f"model:{partition}" for partition in range(partitions)])
        found = (split_version(as_bytes(version).decode()) for version in stored if version)
        return max((parts[1] for parts in found if parts), default=0)

    async def entries(self, partition: int, packed: bytes) -> tuple[int, list[bytes | None]]:
        """Give the newest offset of an index (-1: none), and what stands at these places of it."""
        try:
            newest, *found = await self._entries(args=[partition, packed])
        except ResponseError as error:
            raise damaged(f"index:{partition} or w:{partition}:*", str(error)) from error
        return -1 if newest is None else int(newest), found

    async def known_ids(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Give the entries of those ids that were decided lately."""
        found = await self._ids(args=[b"".join(digests)])
        return {digests[found[at]]: found[at + 1] for at in range(0, len(found), 2)}

    async def commit(
        self, name: str, expected: str | None, stored: Stored, changes: Sequence[Change]
    ) -> bool:
        """If the position is the expected one, store all and say so; else store nothing."""
        outbox = sealed(_outbox_key(name, stored.position), stored.outbox)
        words: list[str | int | bytes] = [expected or "", stored.position or "", outbox]
        assert all(change[0] != "IDS" for change in changes[1:]), "only the first may refuse"
        for change in changes:
            assert len(change) <= CHANGE_WORDS_MAX, change[0]
            words += (len(change), *change)
        try:
            result = await self._script(keys=[f"pos:{name}", f"out:{name}"], args=words)
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise UnknownResultError(str(error)) from error
        except ResponseError as error:
            raise await self._broken_off(name, str(error)) from error
        return bool(result)

    async def _broken_off(self, name: str, said: str) -> Exception:
        """Give the error of a commit that the script ended; what it had changed stays changed."""
        if said.startswith(FOREIGN):
            _, key, found, wanted = said.split(" ")[:4]
            return damaged(key, f"it holds a {found}, expected a {wanted}")
        if "user_script" not in said:
            return CommitError(f"Redis refuses the commit of {name}: {said}")
        await self.redis.set(f"torn:{name}", said)
        return damaged(f"torn:{name}", f"a commit broke off halfway: {said}")
