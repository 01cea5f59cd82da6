-- Read one execution for a listing: HGETALL, GET and EXISTS in one step, but without the result of
-- a success, which may be large.
-- KEYS: 1 the registry's hash, 2 the result
local hash, result = KEYS[1], KEYS[2]
local record = redis.call('HGETALL', hash)
local succeeded = redis.call('HGET', hash, 'state') == 'SUCCESS'
local kept = succeeded and redis.call('EXISTS', result) == 1
return {
    record,
    not succeeded and redis.call('GET', result),
    redis.call('EXISTS', hash .. ':life'),
    kept and 1 or 0,
}
