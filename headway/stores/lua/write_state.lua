-- The guarded write: `allows_write` and `apply_write` of core/states.py, in one step with the
-- result.
-- KEYS: 1 the registry's hash, 2 the result (also the channel that Celery publishes it on)
-- ARGV: 1 state, 2 now (microseconds), 3 attempt ('': an external writer), 4 task ('' if unknown),
--       5 kind and action in one word, which is cheaper than two. The kind: 'report' (with
--       progress),
--         'plain', 'retry', 'end'. The action: '-store' stores and publishes the record, '-publish'
--         only publishes it, '-follows' publishes it and the caller stores another one, '-clear'
--         stores it, but it is not a result
--       6 the record, 7 its time to live (ms, 0: for ever),
--       8 the hash's time to live (ms, 0: for ever),
--       9 retries, 10 worker, 11 delivery id (of an external writer; '' if unknown);
--       last: the history entry of a report, without the attempt if from an external writer
-- Returns 1 if accepted, 0 if refused; plus 2 if a cancel is requested.
local hash, result = KEYS[1], KEYS[2]
local now, record = ARGV[2], ARGV[6]
local kind, way = string.match(ARGV[5], '(%a+)-(%a+)')
local stores = way == 'store' or way == 'clear'

local known = redis.call('HMGET', hash, 'attempt', 'ended', 'state', 'live', 'task', 'retries', 'worker',
    'cancel_requested_at', 'sign', 'history_gap')
local attempt, ended = tonumber(known[1]) or 0, tonumber(known[2]) or 0
local state, live = known[3], known[4]
local cancel_bit = known[8] and 2 or 0

if ARGV[3] ~= '' then
    local own = tonumber(ARGV[3])
    if own == attempt then
        if attempt <= ended then return cancel_bit end
    elseif own < attempt or TERMINAL[state] then
        return cancel_bit
    end
    attempt = own
else
    if TERMINAL[state] then return cancel_bit end
    local open, retries = attempt > ended, tonumber(known[6]) or 0
    if ARGV[9] ~= '' and attempt > 0 then
        local said = tonumber(ARGV[9])
        if said < retries or (said == retries and not open) then return cancel_bit end
    end
    if open and ARGV[1] == 'REVOKED' and ARGV[9] == '' then return cancel_bit end
    if open and ARGV[10] ~= '' and known[7] and known[7] ~= ARGV[10] then return cancel_bit end
    if open and ARGV[11] ~= '' then
        local run = redis.call('HGET', hash, 'run')
        if run and run ~= ARGV[11] then return cancel_bit end
    end
end

if kind == 'report' then
    local entry = ARGV[#ARGV]
    add_report(hash, known[10], ARGV[3] == '' and attempt .. entry or entry, now, ARGV[8])
end

-- The last progress is in the result's record until another record replaces it: copy it only then.
if live and kind ~= 'report' and (stores or kind ~= 'plain') then
    local last = redis.call('GET', result)
    if last then redis.call('HSET', hash, 'progress', last, 'progress_attempt', live) end
    redis.call('HDEL', hash, 'live')
end

if state ~= ARGV[1] or not known[1] or attempt ~= tonumber(known[1]) then
    local ends = kind == 'end' or kind == 'retry'
    local old_status = indexed_status(state, (tonumber(known[1]) or 0) > ended)
    local new_status = indexed_status(ARGV[1], not ends and attempt > ended)
    if not state or old_status ~= new_status then
        local prefix = key_prefix(hash, result)
        local times = redis.call('HMGET', hash, 'created_at', 'heard_at')
        local first_seen = times[2] or times[1]
        if not first_seen then
            first_seen = now
            redis.call('HSET', hash, 'heard_at', now)
        end
        index_remove(prefix, 'in:' .. old_status, result, first_seen)
        index_add(prefix, 'in:' .. new_status, result, first_seen, now, ARGV[8])
    end
    redis.call('HSET', hash, 'updated_at', now, 'state', ARGV[1], 'attempt', attempt)
else
    redis.call('HSET', hash, 'updated_at', now)
end
if not known[5] and ARGV[4] ~= '' then
    local times = redis.call('HMGET', hash, 'created_at', 'heard_at')
    redis.call('HSET', hash, 'task', ARGV[4])
    local prefix, first_seen = key_prefix(hash, result), times[2] or times[1]
    index_add_named(prefix, 'of:' .. ARGV[4], result, first_seen, now, ARGV[8])
end
if kind == 'report' then
    if not stores then
        redis.call('HSET', hash, 'progress', record, 'progress_attempt', attempt)
        redis.call('HDEL', hash, 'live')
    elseif tonumber(live) ~= attempt then
        redis.call('HSET', hash, 'live', attempt)
    end
elseif kind == 'end' then
    local stored = (way == 'publish' or way == 'clear') and '0' or '1'
    redis.call('HSET', hash, 'ended', attempt, 'finished_at', now, 'result_stored', stored)
    compact_history(hash)
elseif kind == 'retry' then
    redis.call('HSET', hash, 'ended', attempt)
end

if stores then
    if ARGV[7] == '0' then
        redis.call('SET', result, record)
    else
        redis.call('SET', result, record, 'PX', ARGV[7])
    end
end
redis.call('PUBLISH', result, record)

-- A report counts as a heartbeat. Heartbeats refresh the hash too, so the report need not.
if known[9] and (kind == 'report' or kind == 'plain') then
    local sender, lifetime = string.match(known[9], '(%d+) (%d+)')
    if sender == ARGV[3] then
        if redis.call('PEXPIRE', hash .. ':life', lifetime) == 1 then return 1 + cancel_bit end
        redis.call('SET', hash .. ':life', '', 'PX', lifetime)
    end
end
local kept = ARGV[8]
if kind == 'retry' then kept = ttl_until_expected(redis.call('HGET', hash, 'due_at'), now, kept) end
refresh_ttl(hash, kept)
return 1 + cancel_bit
