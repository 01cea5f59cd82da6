-- Shared by several scripts: the indexes of stores/pagination.py. `ID_AT`, the start of the id in a
-- result's key, is defined before this text. An index is a sorted set with all scores 0; a member
-- is the position's microseconds (16 digits), then the id.
local TERMINAL = {
    SUCCESS = 'completed', IGNORED = 'completed', FAILURE = 'failed', REJECTED = 'failed',
    REVOKED = 'cancelled',
}

-- `indexed_status` of stores/pagination.py.
local function indexed_status(state, is_open)
    if not state or state == 'PENDING' or state == 'RECEIVED' then
        return is_open and 'running' or 'pending'
    end
    return TERMINAL[state] or 'running'
end

-- The prefix of our keys.
local function key_prefix(hash, result) return string.sub(hash, 1, #hash - #result - 2) end

local function index_member(result, listed_at)
    return string.rep('0', 16 - #listed_at) .. listed_at .. string.sub(result, ID_AT)
end

-- Add to an index. Each addition checks two members that are old enough to have expired, and
-- removes them if they have, so that an index never holds many expired members. It checks any two,
-- not the oldest: the oldest may be ids that are used again and again.
local function index_add(prefix, index, result, listed_at, now, kept)
    local key = prefix .. index
    redis.call('ZADD', key, 0, index_member(result, listed_at))
    if kept == '0' then return end
    local oldest = string.format('(%016.0f', math.max(0, now - kept * 1000))
    local old = redis.call('ZLEXCOUNT', key, '-', oldest)
    for n = 1, math.min(old, 2) do
        local rank = (tonumber(now) + n * 7919) % old
        local member = redis.call('ZRANGE', key, rank, rank)[1]
        local hash = prefix .. '{' .. string.sub(result, 1, ID_AT - 1) .. string.sub(member, 17) .. '}'
        if redis.call('EXISTS', hash) == 0 then
            redis.call('ZREM', key, member)
            old = old - 1
            if old == 0 then return end
        end
    end
end

-- The time to live of a waiting task: until it is expected, and then as long as any other.
local function ttl_until_expected(due, now, kept)
    if not due or kept == '0' then return kept end
    return string.format('%.0f', kept + math.max(0, due - now) / 1000)
end

-- Extend a time to live, but never shorten it: another member may be expected later.
local function extend_ttl(key, kept)
    if redis.call('PTTL', key) < tonumber(kept) then redis.call('PEXPIRE', key, kept) end
end

-- Add to the index of a task or an owner. There may be any number of these indexes, so each expires
-- when nothing was added for as long as results are kept.
local function index_add_named(prefix, index, result, listed_at, now, kept)
    index_add(prefix, index, result, listed_at, now, kept)
    if kept ~= '0' then extend_ttl(prefix .. index, kept) end
end

local function index_remove(prefix, index, result, listed_at)
    redis.call('ZREM', prefix .. index, index_member(result, listed_at))
end
