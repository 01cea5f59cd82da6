-- Start an attempt: `allows_start`, `is_same_delivery`, `apply_start` and `start_reply` of
-- core/states.py, in one step.
-- KEYS: 1 the registry's hash, 2 the result (also the channel that Celery publishes it on)
-- ARGV: 1 now (microseconds), 2 retries, 3 worker, 4 task (3-4: '' if unknown),
--       5 the record of the start, 6 '1': store it, 7 its time to live (ms, 0: for ever),
--       8 the hash's time to live (ms, 0: for ever),
--       9 time to live of the heartbeat that the start counts as (ms, 0: none),
--       10 delivery id, 11 owner (10-11: '' if unknown), 12 '1': its retry is published
-- Returns the attempt's number (0: refused), 1 if a cancel is requested, and the record with the
-- last progress of the previous attempt.
local hash, result = KEYS[1], KEYS[2]
local now, record = ARGV[1], ARGV[5]

local known = redis.call('HMGET', hash, 'attempt', 'state', 'live', 'progress', 'progress_attempt', 'started_at',
    'result_stored', 'cancel_requested_at', 'created_at', 'heard_at', 'task', 'owner', 'ended', 'run',
    'retries')
local attempt, live = tonumber(known[1]) or 0, known[3]
local cancel = known[8] and 1 or 0
local has_result = redis.call('EXISTS', result) == 1

-- The same delivery again: the first reply was lost.
if ARGV[10] ~= '' and known[14] == ARGV[10] then
    return {attempt, cancel, not live and tonumber(known[5]) ~= attempt and known[4] or false}
end
if known[2] == 'REVOKED' and known[8] then return {0, cancel, false} end
if known[2] == 'SUCCESS' and not (known[7] == '1' and not has_result) then
    return {0, cancel, false}
end
if ARGV[12] == '1' and (tonumber(known[15]) or 0) > tonumber(ARGV[2]) then
    return {0, cancel, false}
end

-- The id is used again after a success: it starts a new history.
if known[2] == 'SUCCESS' then delete_history(hash) end

local progress, reporter = known[4], known[5]
if live then
    local last = redis.call('GET', result)
    if last then
        progress, reporter = last, live
        redis.call('HSET', hash, 'progress', last, 'progress_attempt', live)
    end
end
local previous = progress and (tonumber(reporter) or 0) == attempt and progress or false
if not previous then redis.call('HDEL', hash, 'progress', 'progress_attempt') end

-- Its index entries. Those of a terminal execution may have expired with its result.
local prefix, kept, state = key_prefix(hash, result), ARGV[8], known[2]
local first_seen, task = known[10] or known[9] or now, ARGV[4] ~= '' and ARGV[4] or known[11]
local old_status = indexed_status(state, attempt > (tonumber(known[13]) or 0))
if not known[10] and not known[9] then redis.call('HSET', hash, 'heard_at', now) end
if old_status ~= 'running' then
    index_remove(prefix, 'in:' .. old_status, result, first_seen)
    index_add(prefix, 'in:running', result, first_seen, now, kept)
end
if known[11] and task ~= known[11] then
    index_remove(prefix, 'of:' .. known[11], result, first_seen)
end
if task and (task ~= known[11] or TERMINAL[state]) then
    index_add_named(prefix, 'of:' .. task, result, first_seen, now, kept)
end
local owner = known[12] or ARGV[11] ~= '' and ARGV[11]
if owner and (not known[12] or TERMINAL[state]) then
    index_add_named(prefix, 'by:' .. owner, result, first_seen, now, kept)
end
if owner and not known[12] then redis.call('HSET', hash, 'owner', owner) end

attempt = math.max(attempt, tonumber(ARGV[2])) + 1
redis.call('HSET', hash, 'attempt', attempt, 'state', 'STARTED', 'retries', ARGV[2],
    'updated_at', now)
redis.call('HDEL', hash, 'finished_at', 'result_stored', 'live', 'due_at')
if not known[6] then redis.call('HSET', hash, 'started_at', now) end
if ARGV[4] ~= '' then redis.call('HSET', hash, 'task', ARGV[4]) end
if ARGV[3] ~= '' then
    redis.call('HSET', hash, 'worker', ARGV[3])
else
    redis.call('HDEL', hash, 'worker')
end
if ARGV[10] ~= '' then
    redis.call('HSET', hash, 'run', ARGV[10])
else
    redis.call('HDEL', hash, 'run')
end

if ARGV[9] ~= '0' then
    redis.call('HSET', hash, 'sign', attempt .. ' ' .. ARGV[9])
    redis.call('SET', hash .. ':life', '', 'PX', ARGV[9])
end

-- The result of an earlier attempt must not stay beside an open attempt.
if has_result or ARGV[6] == '1' then
    if ARGV[7] == '0' then
        redis.call('SET', result, record)
    else
        redis.call('SET', result, record, 'PX', ARGV[7])
    end
end
redis.call('PUBLISH', result, record)
refresh_ttl(hash, ARGV[8])
return {attempt, cancel, previous}
