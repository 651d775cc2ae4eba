"""Keys of Redis that hold another kind of value than they should.

Redis gives nothing for such a key where several are read at once, and would break off a commit
half made. So what is missing is looked for once more, and a commit looks at the kinds of what it is
going to change before it changes anything: of all but the many buckets of the index, which would
cost a microsecond an event. A commit that breaks off there leaves its word in `torn:`.
"""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from pipeline.stored_rows import damaged

FOREIGN = "FOREIGN"

# Goes before the commit script, and ends it before its first change.
CHECK_SCRIPT = """
do
    local kinds = {HSET='hash', HDEL='hash', HINCRBY='hash', ZADD='zset', XADD='stream'}
    local of_partition = {index='hash', ledger='hash', review='zset', alert='hash'}
    local with_partition = {INDEX=true, VERDICTS=true, OUTCOME=true, SWEEP=true, ALERTS=true}
    local seen = {}
    local function foreign(key, wanted)
        if seen[key] then return end
        seen[key] = true
        local found = redis.call('TYPE', key).ok
        if found ~= wanted and found ~= 'none' then
            return redis.error_reply('FOREIGN ' .. key .. ' ' .. found .. ' ' .. wanted)
        end
    end
    local at = 4
    while at <= #ARGV do
        local name, p = ARGV[at + 1], ARGV[at + 2]
        local problem = kinds[name] and foreign(p, kinds[name])
        if with_partition[name] then
            for key, kind in pairs(of_partition) do
                problem = problem or foreign(key .. ':' .. p, kind)
            end
        end
        if name == 'ADDED' then
            problem = problem or foreign('shared', 'hash') or foreign('additions', 'stream')
        elseif name == 'VERDICTS' then
            local packed, first = ARGV[at + 3], 1
            while not problem and first <= #packed do
                local bucket, _, length, named = struct.unpack('<I2c6BB', packed, first)
                problem = foreign('w:' .. p .. ':' .. bucket, 'hash')
                first = first + 10 + length + named
            end
        elseif name == 'OUTCOME' then
            problem = problem or foreign('w:' .. p .. ':' .. ARGV[at + 3], 'hash')
        end
        if problem then return problem end
        at = at + tonumber(ARGV[at]) + 1
    end
end
"""


async def check_missing(redis: Redis, keys: Sequence[str]) -> None:
    """Refuse keys that gave nothing, though something stands there that is no string."""
    if not keys or not await redis.exists(*keys):
        return
    for key in keys:
        found: Any = await redis.type(key)
        # A string has come meanwhile, from another partition.
        if found not in (b"none", b"string"):
            raise damaged(key, f"it holds a {found.decode()}, expected a string")
