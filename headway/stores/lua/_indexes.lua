-- What several scripts share: the indexes of stores/listing.py. ID_AT, where the id begins in a result's key, is set before it.
-- An index is a sorted set, all scores 0, of members in their order: the place's microseconds (16 digits), then the id.
local ENDS = {SUCCESS = 'completed', IGNORED = 'completed', FAILURE = 'failed', REJECTED = 'failed', REVOKED = 'cancelled'}

-- `status_of` of stores/listing.py.
local function status_of(state, is_open)
    if not state or state == 'PENDING' or state == 'RECEIVED' then return is_open and 'running' or 'pending' end
    return ENDS[state] or 'running'
end

-- What our keys begin with.
local function root_of(hash, result) return string.sub(hash, 1, #hash - #result - 2) end

local function member_of(result, listed_at) return string.rep('0', 16 - #listed_at) .. listed_at .. string.sub(result, ID_AT) end

-- Into an index. Whoever comes in sees two out that are gone, so that an index never holds much more than what is there: of those
-- that are old enough to be gone any two, for some of them may be used again and again and would stand in the way of a queue.
local function enter(root, index, result, listed_at, now, kept)
    local key = root .. index
    redis.call('ZADD', key, 0, member_of(result, listed_at))
    if kept == '0' then return end
    local old = redis.call('ZLEXCOUNT', key, '-', string.format('(%016.0f', math.max(0, now - kept * 1000)))
    for n = 1, math.min(old, 2) do
        local rank = (tonumber(now) + n * 7919) % old
        local member = redis.call('ZRANGE', key, rank, rank)[1]
        local hash = root .. '{' .. string.sub(result, 1, ID_AT - 1) .. string.sub(member, 17) .. '}'
        if redis.call('EXISTS', hash) == 0 then
            redis.call('ZREM', key, member)
            old = old - 1
            if old == 0 then return end
        end
    end
end

-- How long a hash is kept that waits: until it is due, and from then on as long as any other.
local function until_due(due, now, kept)
    if not due or kept == '0' then return kept end
    return string.format('%.0f', kept + math.max(0, due - now) / 1000)
end

-- No shorter than it is kept already, for something in it that is due late.
local function keep(key, kept)
    if redis.call('PTTL', key) < tonumber(kept) then redis.call('PEXPIRE', key, kept) end
end

-- The indexes of a task and of an owner, of which there may be any number, go when nobody has come for as long as anything is kept.
local function enter_named(root, index, result, listed_at, now, kept)
    enter(root, index, result, listed_at, now, kept)
    if kept ~= '0' then keep(root .. index, kept) end
end

local function leave(root, index, result, listed_at) redis.call('ZREM', root .. index, member_of(result, listed_at)) end
