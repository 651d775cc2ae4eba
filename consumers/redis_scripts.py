"""The scripts that Redis runs, each as one step for everybody else."""

COMMIT_SCRIPT = """
local position = redis.call('GET', KEYS[1])
if (position or '') ~= ARGV[1] then return 0 end

-- What is done for each event of a batch is found without a search through tables.
local call, unpacked = redis.call, struct.unpack
local custom = {}
-- What a batch adds to rows of profiles: an entry of the log, numbered here.
function custom.ADDED(by, rows)
    local number = redis.call('HINCRBY', 'shared', 'additions', 1)
    redis.call('XADD', 'additions', number .. '-0', 'by', by, 'rows', rows)
end
-- The index of waiting decisions. An entry: offset (6 bytes), outcome (1; 128 and more: nothing was
-- decided yet), verdict. Offset, outcome and verdict each have a writer of their own.
function custom.INDEX(p, newest, packed)
    local added, keys = 0, 'w:' .. p .. ':'
    for at = 1, #packed, 14 do
        local bucket, field, offset = unpacked('<I2c6c6', packed, at)
        local key = keys .. bucket
        if call('HSETNX', key, field, offset .. '\0') == 1 then
            added = added + 1
        else
            local old = call('HGET', key, field)
            local outcome = string.char(old:byte(7) % 128)
            call('HSET', key, field, offset .. outcome .. old:sub(8))
        end
    end
    redis.call('HINCRBY', 'index:' .. p, 'entries', added)
    redis.call('HSET', 'index:' .. p, 'offset', newest)
end
-- Verdicts: bucket (2 bytes), field (6), lengths of verdict and id (1 each), verdict, id.
function custom.VERDICTS(p, packed)
    local at, ids = 1, {}
    while at <= #packed do
        local bucket, field, length, named = unpacked('<I2c6BB', packed, at)
        local key, last = 'w:' .. p .. ':' .. bucket, at + 9 + length
        local old = call('HGET', key, field)
        -- An entry that went meanwhile stays away: its decision is too old.
        if old then
            call('HSET', key, field, old:sub(1, 7) .. packed:sub(at + 10, last))
        end
        ids[#ids + 1] = packed:sub(last + 1, last + named)
        at = last + named + 1
    end
    for first = 1, #ids, 4000 do
        local last = math.min(first + 3999, #ids)
        redis.call('ZREM', 'review:' .. p, unpack(ids, first, last))
        redis.call('HDEL', 'alert:' .. p, unpack(ids, first, last))
    end
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
-- The ids of a batch: bucket (4 digits), field (6), entry (10), and the entry that was found there
-- before (10; zeros: none). Where another stands by now, another partition was faster: the commit
-- is refused, and nothing of it may stay.
local function release(packed, last)
    for at = 1, last, 30 do
        local key, field = 'd:' .. packed:sub(at, at + 3), packed:sub(at + 4, at + 9)
        local before = packed:sub(at + 20, at + 29)
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
        local key = string.format('d:%04x', bucket % 65536)
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
    for at = 1, #packed, 30 do
        local bucket, field, entry = unpacked('c4c6c10', packed, at)
        local key = 'd:' .. bucket
        if call('HSETNX', key, field, entry) == 1 then
            added = added + 1
        elseif call('HGET', key, field) == packed:sub(at + 20, at + 29) then
            call('HSET', key, field, entry)
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
local call, unpacked, keys = redis.call, struct.unpack, 'w:' .. p .. ':'
local found = {call('HGET', 'index:' .. p, 'offset')}
for at = 1, #packed, 8 do
    local bucket, field = unpacked('<I2c6', packed, at)
    found[#found + 1] = call('HGET', keys .. bucket, field)
end
return found
"""

# Finds ids that were decided lately: the number of each in the list, and its entry.
_KNOWN_IDS = """
local function known_ids(places)
    local known, call, unpacked = {}, redis.call, struct.unpack
    for at = 1, #places, 10 do
        local bucket, field = unpacked('c4c6', places, at)
        local entry = call('HGET', 'd:' .. bucket, field)
        if entry then
            known[#known + 1] = (at - 1) / 10
            known[#known + 1] = entry
        end
    end
    return known
end
"""
IDS_SCRIPT = _KNOWN_IDS + "return known_ids(ARGV[1])"

# Reads all that a batch needs, as of one moment: the entries of the logs since the reader's places
# in them (which come along, so that it can see that they are still its own), rows, known ids.
LOAD_SCRIPT = (
    _KNOWN_IDS
    + """
local place, lesson, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local state = redis.call('HMGET', 'shared', 'additions', 'folded')
local folded = state[2] or '0'
if place == '' then place = folded end
local entries = redis.call('XRANGE', 'additions', place .. '-0', '+', 'COUNT', count)
local lessons
if lesson == '' then
    lessons = redis.call('XREVRANGE', 'taught', '+', '-', 'COUNT', 1)
else
    lessons = redis.call('XRANGE', 'taught', lesson .. '-0', '+', 'COUNT', count)
end
-- The rows of which the reader does not know yet that they have changed.
local names, rows = {}, {}
for at = lesson == '0' and 1 or 2, #lessons do
    local keys = cmsgpack.unpack(lessons[at][2][4])
    for first = 1, #keys, 4000 do
        local found = redis.call('MGET', unpack(keys, first, math.min(first + 3999, #keys)))
        for row = 1, #found do
            names[#names + 1] = keys[first + row - 1]
            rows[#rows + 1] = found[row]
        end
    end
end
local known = known_ids(ARGV[4])
local values, missing = {}, {}
for first = 5, #ARGV, 4000 do
    local last = math.min(first + 3999, #ARGV)
    local found = redis.call('MGET', unpack(ARGV, first, last))
    for at = 1, #found do
        values[#values + 1] = found[at]
        if not found[at] then missing[#missing + 1] = ARGV[first + at - 1] end
    end
end
-- Of another kind of value nothing is given either.
for first = 1, #missing, 4000 do
    local last = math.min(first + 3999, #missing)
    if redis.call('EXISTS', unpack(missing, first, last)) > 0 then
        for at = first, last do
            local found = redis.call('TYPE', missing[at]).ok
            if found ~= 'none' then
                return redis.error_reply('FOREIGN ' .. missing[at] .. ' ' .. found .. ' string')
            end
        end
    end
end
return {state[1] or '0', folded, redis.call('GET', 'pos:training'), entries,
    lessons, names, rows, known, values}
"""
)

# Begins, goes on with or ends the writing of rows, by one writer at a time. Whoever was at it and
# has not ended while so many entries came is gone, or refused from now on. So is a writer whose
# store was put back meanwhile, to where he was at it already: it lacks steps that he has taken, or
# the entry that his rows end with is another's.
WRITE_BACK_SCRIPT = """
local step, writer = ARGV[1], ARGV[2]
local state = redis.call('HMGET', 'shared', 'additions', 'folded', 'writer', 'since', 'steps')
local newest = tonumber(state[1] or '0')
if step == 'begin' then
    local is_other = state[3] and state[3] ~= writer
        and newest - tonumber(state[4]) < tonumber(ARGV[4])
    if (state[2] or '0') ~= ARGV[3] or is_other then return 0 end
    redis.call('HSET', 'shared', 'writer', writer, 'since', newest, 'steps', 0)
    return 1
end
local steps, number, by = tonumber(ARGV[3]), ARGV[4], ARGV[5]
if state[3] ~= writer or tonumber(state[5] or '0') < steps then return 0 end
local entry = redis.call('XRANGE', 'additions', number .. '-0', number .. '-0')[1]
if not entry or entry[2][2] ~= by then return 0 end
if step == 'rows' then
    redis.call('MSET', unpack(ARGV, 6))
    redis.call('HSET', 'shared', 'steps', steps + 1)
else
    redis.call('HSET', 'shared', 'folded', number)
    redis.call('HDEL', 'shared', 'writer', 'since', 'steps')
    redis.call('XTRIM', 'additions', 'MINID', ARGV[6])
end
return 1
"""
