-- A cancel request: `apply_cancel_request` of core/states.py.
-- KEYS: 1 the registry's hash, 2 the result (also the channel that Celery publishes it on)
-- ARGV: 1 now (microseconds), 2 the record to publish, 3 the hash's time to live (ms, 0: for ever)
-- Returns 0 for an unknown id.
local hash, result = KEYS[1], KEYS[2]
local known = redis.call('HMGET', hash, 'state', 'created_at', 'heard_at', 'due_at')

if not known[1] and not known[2] and not known[3] and redis.call('EXISTS', hash, result) == 0 then
    return 0
end
if TERMINAL[known[1]] or redis.call('HSETNX', hash, 'cancel_requested_at', ARGV[1]) == 0 then
    return 1
end

if not known[2] and not known[3] then
    redis.call('HSET', hash, 'heard_at', ARGV[1])
    index_add(key_prefix(hash, result), 'in:pending', result, ARGV[1], ARGV[1], ARGV[3])
end
redis.call('PUBLISH', result, ARGV[2])
refresh_ttl(hash, ttl_until_expected(known[4], ARGV[1], ARGV[3]))
return 1
