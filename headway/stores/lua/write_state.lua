-- One guarded write: `admits` and `written` of core/states.py, beside the result and in one step with it.
-- KEYS: 1 the registry's hash, 2 the result (also the channel that Celery publishes it on)
-- ARGV: 1 state, 2 now (microseconds), 3 attempt ('': a bystander), 4 task ('' where unknown),
--       5 what it is: 'report' (carries progress), 'plain', 'retry', 'end'; then '-store' where the record is stored, '-publish' where
--         it is only told, '-follows' where it is told and the caller stores another, '-clear' where it is stored and is no result
--         (a word each costs more than one word)
--       6 the record, 7 its time to live (ms, 0: for ever), 8 the hash's time to live (ms, 0: for ever),
--       9 retries, 10 worker, 11 the run's mark (of a bystander; '' where unknown);
--       the last: of a report what is remembered of it, a bystander's without the attempt's number
-- Returns 1 if it was let in, 0 if not; and 2 more where a cancel is asked for.
local hash, result = KEYS[1], KEYS[2]
local now, record = ARGV[2], ARGV[6]
local kind, way = string.match(ARGV[5], '(%a+)-(%a+)')
local stores = way == 'store' or way == 'clear'

local known = redis.call('HMGET', hash, 'attempt', 'ended', 'state', 'live', 'task', 'retries', 'worker',
    'cancel_requested_at', 'sign', 'history_gap')
local attempt, ended, state, live = tonumber(known[1]) or 0, tonumber(known[2]) or 0, known[3], known[4]
local asked = known[8] and 2 or 0

if ARGV[3] ~= '' then
    local own = tonumber(ARGV[3])
    if own == attempt then
        if attempt <= ended then return asked end
    elseif own < attempt or ENDS[state] then
        return asked
    end
    attempt = own
else
    if ENDS[state] then return asked end
    local open, retries = attempt > ended, tonumber(known[6]) or 0
    if ARGV[9] ~= '' and attempt > 0 then
        local said = tonumber(ARGV[9])
        if said < retries or (said == retries and not open) then return asked end
    end
    if open and ARGV[1] == 'REVOKED' and ARGV[9] == '' then return asked end
    if open and ARGV[10] ~= '' and known[7] and known[7] ~= ARGV[10] then return asked end
    if open and ARGV[11] ~= '' then
        local run = redis.call('HGET', hash, 'run')
        if run and run ~= ARGV[11] then return asked end
    end
end

if kind == 'report' then
    local entry = ARGV[#ARGV]
    remember(hash, known[10], ARGV[3] == '' and attempt .. entry or entry, now, ARGV[8])
end

-- The last progress lives in the result's record until another record takes its place: only then it is copied.
if live and kind ~= 'report' and (stores or kind ~= 'plain') then
    local last = redis.call('GET', result)
    if last then redis.call('HSET', hash, 'progress', last, 'progress_attempt', live) end
    redis.call('HDEL', hash, 'live')
end

if state ~= ARGV[1] or not known[1] or attempt ~= tonumber(known[1]) then
    local ends = kind == 'end' or kind == 'retry'
    local was, is = status_of(state, (tonumber(known[1]) or 0) > ended), status_of(ARGV[1], not ends and attempt > ended)
    if not state or was ~= is then
        local root, times = root_of(hash, result), redis.call('HMGET', hash, 'created_at', 'heard_at')
        local listed = times[2] or times[1]
        if not listed then
            listed = now
            redis.call('HSET', hash, 'heard_at', now)
        end
        leave(root, 'in:' .. was, result, listed)
        enter(root, 'in:' .. is, result, listed, now, ARGV[8])
    end
    redis.call('HSET', hash, 'updated_at', now, 'state', ARGV[1], 'attempt', attempt)
else
    redis.call('HSET', hash, 'updated_at', now)
end
if not known[5] and ARGV[4] ~= '' then
    local times = redis.call('HMGET', hash, 'created_at', 'heard_at')
    redis.call('HSET', hash, 'task', ARGV[4])
    enter_named(root_of(hash, result), 'of:' .. ARGV[4], result, times[2] or times[1], now, ARGV[8])
end
if kind == 'report' then
    if not stores then
        redis.call('HSET', hash, 'progress', record, 'progress_attempt', attempt)
        redis.call('HDEL', hash, 'live')
    elseif tonumber(live) ~= attempt then
        redis.call('HSET', hash, 'live', attempt)
    end
elseif kind == 'end' then
    redis.call('HSET', hash, 'ended', attempt, 'finished_at', now, 'result_stored', (way == 'publish' or way == 'clear') and '0' or '1')
    settle(hash)
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

-- Who reports lives. While signs are given they keep the hash as well, so that a report costs no more than it did.
if known[9] and (kind == 'report' or kind == 'plain') then
    local signer, lifetime = string.match(known[9], '(%d+) (%d+)')
    if signer == ARGV[3] then
        if redis.call('PEXPIRE', hash .. ':life', lifetime) == 1 then return 1 + asked end
        redis.call('SET', hash .. ':life', '', 'PX', lifetime)
    end
end
prolong(hash, kind == 'retry' and until_due(redis.call('HGET', hash, 'due_at'), now, ARGV[8]) or ARGV[8])
return 1 + asked
