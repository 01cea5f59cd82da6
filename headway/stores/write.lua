-- One guarded write: `admits` and `written` of core/states.py, beside the result and in one step with it.
-- KEYS: 1 the registry's hash, 2 the result (also the channel that Celery publishes it on)
-- ARGV: 1 state, 2 now (microseconds), 3 attempt, 4 retries, 5 worker, 6 task (3-6: '' where unknown),
--       7 what it is: 'report' (carries progress), 'plain', 'retry', 'end'
--       8 the record, 9 '1': store it, '0': publish it only, 10 its time to live (ms, 0: for ever),
--       11 the hash's time to live (ms, 0: for ever), 12 '1': a result goes with this end
-- Returns 1 if it was let in, 0 if not.
local READY = {SUCCESS = true, FAILURE = true, REVOKED = true, IGNORED = true, REJECTED = true}
local hash, result = KEYS[1], KEYS[2]
local now, kind, record, stores = ARGV[2], ARGV[7], ARGV[8], ARGV[9] == '1'

local known = redis.call('HMGET', hash, 'attempt', 'ended', 'state', 'live', 'task', 'retries', 'worker')
local attempt, ended, state, live = tonumber(known[1]) or 0, tonumber(known[2]) or 0, known[3], known[4]

if ARGV[3] ~= '' then
    local own = tonumber(ARGV[3])
    if own == attempt then
        if attempt <= ended then return 0 end
    elseif own < attempt or READY[state] then
        return 0
    end
    attempt = own
else
    if READY[state] then return 0 end
    local open, retries = attempt > ended, tonumber(known[6]) or 0
    if ARGV[4] ~= '' and attempt > 0 then
        local said = tonumber(ARGV[4])
        if said < retries or (said == retries and not open) then return 0 end
    end
    if open and ARGV[5] ~= '' and known[7] and known[7] ~= ARGV[5] then return 0 end
end

-- The last progress lives in the result's record until another record takes its place: only then it is copied.
if live and kind ~= 'report' and (stores or kind ~= 'plain') then
    local last = redis.call('GET', result)
    if last then redis.call('HSET', hash, 'progress', last, 'progress_attempt', live) end
    redis.call('HDEL', hash, 'live')
end

if state ~= ARGV[1] or not known[1] or attempt ~= tonumber(known[1]) then
    redis.call('HSET', hash, 'updated_at', now, 'state', ARGV[1], 'attempt', attempt)
else
    redis.call('HSET', hash, 'updated_at', now)
end
if not known[5] and ARGV[6] ~= '' then redis.call('HSET', hash, 'task', ARGV[6]) end
if kind == 'report' then
    if not stores then
        redis.call('HSET', hash, 'progress', record, 'progress_attempt', attempt)
        redis.call('HDEL', hash, 'live')
    elseif tonumber(live) ~= attempt then
        redis.call('HSET', hash, 'live', attempt)
    end
elseif kind == 'end' then
    redis.call('HSET', hash, 'ended', attempt, 'finished_at', now, 'result_stored', ARGV[12])
elseif kind == 'retry' then
    redis.call('HSET', hash, 'ended', attempt)
end

if stores then
    if ARGV[10] == '0' then
        redis.call('SET', result, record)
    else
        redis.call('SET', result, record, 'PX', ARGV[10])
    end
end
redis.call('PUBLISH', result, record)
if ARGV[11] == '0' then redis.call('PERSIST', hash) else redis.call('PEXPIRE', hash, ARGV[11]) end
return 1
