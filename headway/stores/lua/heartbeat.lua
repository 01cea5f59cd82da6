-- A heartbeat: `apply_heartbeat` of core/states.py. An expiring key measures the time, so that no
-- two clocks are compared.
-- KEYS: 1 the registry's hash, 2 the result
-- ARGV: 1 worker, 2 the heartbeat's time to live (ms), 3 the hash's time to live (ms, 0: for ever)
-- Returns 1 if a cancel is requested.
local hash, result = KEYS[1], KEYS[2]
local known = redis.call('HMGET', hash, 'attempt', 'ended', 'worker', 'sign', 'cancel_requested_at',
    'task', 'owner')
local attempt = tonumber(known[1]) or 0

if attempt <= (tonumber(known[2]) or 0) or (known[3] and known[3] ~= ARGV[1]) then return 0 end

local sign = attempt .. ' ' .. ARGV[2]
if known[4] ~= sign then redis.call('HSET', hash, 'sign', sign) end
redis.call('SET', hash .. ':life', '', 'PX', ARGV[2])
refresh_ttl(hash, ARGV[3])
if ARGV[3] ~= '0' then
    -- A task that runs longer than results are kept stays in the indexes.
    local prefix = key_prefix(hash, result)
    if known[6] then extend_ttl(prefix .. 'of:' .. known[6], ARGV[3]) end
    if known[7] then extend_ttl(prefix .. 'by:' .. known[7], ARGV[3]) end
end
return known[5] and 1 or 0
