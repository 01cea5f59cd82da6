-- The history of an execution (core/history.py): a string beside the hash, the concatenated entries
-- of stores/codec.py (a list would tell their number, but not their bytes). It lives as long as the
-- hash, whose field `history_gap` is `min_interval`.
local MAX_BYTES = 24000

local function history_key(hash) return hash .. ':history' end

-- Restart the time to live of the hash and of its history.
local function refresh_ttl(hash, kept)
    if kept == '0' then
        redis.call('PERSIST', hash)
        redis.call('PERSIST', history_key(hash))
    else
        redis.call('PEXPIRE', hash, kept)
        redis.call('PEXPIRE', history_key(hash), kept)
    end
end

local function split_entries(all)
    local found, at = {}, 1
    while true do
        local message, attributes, begin = string.match(all, '^%S* %S+ %S+ %S+ (%S+) (%S+) ()', at)
        if not begin then return found end
        local next = begin + (tonumber(message) or 0) + (tonumber(attributes) or 0)
        found[#found + 1] = string.sub(all, at, next - 1)
        at = next
    end
end

-- `thin_out` of core/history.py.
local function thin_out(hash, history, min_interval, now)
    local times = redis.call('HMGET', hash, 'started_at', 'heard_at', 'created_at')
    local span = now - (times[1] or times[2] or times[3] or now)
    local staying = split_entries(redis.call('GET', history))
    local all
    repeat
        min_interval = math.max(1, 2 * min_interval, math.floor(2 * span / #staying))
        local rest = {}
        for n = 1, #staying, 2 do rest[#rest + 1] = staying[n] end
        staying, all = rest, table.concat(rest)
    until #staying == 1 or #all <= MAX_BYTES / 2
    redis.call('SET', history, all)
    redis.call('HSET', hash, 'history_gap', string.format('%.0f', min_interval))
end

-- Called before `updated_at` of the hash is changed. `min_interval` is its `history_gap`.
local function add_report(hash, min_interval, entry, now, kept)
    if min_interval then
        local before = redis.call('HGET', hash, 'updated_at')
        if before and math.floor(now / min_interval) == math.floor(before / min_interval) then return end
    end
    local history = history_key(hash)
    local size = redis.call('APPEND', history, entry)
    local full = size > MAX_BYTES and size > #entry
    if full then thin_out(hash, history, tonumber(min_interval) or 0, tonumber(now)) end
    if (full or size == #entry) and kept ~= '0' then redis.call('PEXPIRE', history, kept) end
end

local function delete_history(hash)
    redis.call('HDEL', hash, 'history_gap')
    redis.call('DEL', history_key(hash))
end

-- A string that was appended to takes up to twice its size in memory: rewrite it at the end, since
-- most histories are of terminal executions.
local function compact_history(hash)
    local history = history_key(hash)
    local all = redis.call('GET', history)
    if all then redis.call('SET', history, all) end
end
