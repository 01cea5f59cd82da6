-- The reports of an execution, as core/history.py says: a string beside the hash, of what stores/reports.py made of each, one behind
-- the other (a list would tell their number and not their bytes). It lives as long as the hash, where `history_gap` is the gap.
local ROOM = 24000

local function history_of(hash) return hash .. ':history' end

-- The lives of the hash and of its history begin anew.
local function prolong(hash, kept)
    if kept == '0' then
        redis.call('PERSIST', hash)
        redis.call('PERSIST', history_of(hash))
    else
        redis.call('PEXPIRE', hash, kept)
        redis.call('PEXPIRE', history_of(hash), kept)
    end
end

local function entries_of(all)
    local found, at = {}, 1
    while true do
        local message, attributes, begin = string.match(all, '^%S* %S+ %S+ %S+ (%S+) (%S+) ()', at)
        if not begin then return found end
        local next = begin + (tonumber(message) or 0) + (tonumber(attributes) or 0)
        found[#found + 1] = string.sub(all, at, next - 1)
        at = next
    end
end

-- `thinned`
local function thin(hash, history, gap, now)
    local times = redis.call('HMGET', hash, 'started_at', 'heard_at', 'created_at')
    local span, staying = now - (times[1] or times[2] or times[3] or now), entries_of(redis.call('GET', history))
    local all
    repeat
        gap = math.max(1, 2 * gap, math.floor(2 * span / #staying))
        local rest = {}
        for n = 1, #staying, 2 do rest[#rest + 1] = staying[n] end
        staying, all = rest, table.concat(rest)
    until #staying == 1 or #all <= ROOM / 2
    redis.call('SET', history, all)
    redis.call('HSET', hash, 'history_gap', string.format('%.0f', gap))
end

-- Called before the hash's `updated_at` is changed. `gap`: its `history_gap`.
local function remember(hash, gap, entry, now, kept)
    if gap then
        local before = redis.call('HGET', hash, 'updated_at')
        if before and math.floor(now / gap) == math.floor(before / gap) then return end
    end
    local history = history_of(hash)
    local size = redis.call('APPEND', history, entry)
    local full = size > ROOM and size > #entry
    if full then thin(hash, history, tonumber(gap) or 0, tonumber(now)) end
    if (full or size == #entry) and kept ~= '0' then redis.call('PEXPIRE', history, kept) end
end

local function forget(hash)
    redis.call('HDEL', hash, 'history_gap')
    redis.call('DEL', history_of(hash))
end

-- What was appended to has up to twice the memory that it needs. Most have ended, and wait for their expiry.
local function settle(hash)
    local history = history_of(hash)
    local all = redis.call('GET', history)
    if all then redis.call('SET', history, all) end
end
