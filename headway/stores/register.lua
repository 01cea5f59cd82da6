-- `registered` of core/states.py: what is missing is filled in, and nothing is lost.
-- KEYS: 1 the registry's hash
-- ARGV: 1 made at (microseconds), 2 the hash's time to live (ms, 0: for ever), then fields and values
local hash = KEYS[1]
local READY = {SUCCESS = true, FAILURE = true, REVOKED = true, IGNORED = true, REJECTED = true}
local known = redis.call('HMGET', hash, 'started_at', 'state')
local created, started = ARGV[1], known[1]
if READY[known[2]] then redis.call('HDEL', hash, 'cancel_requested_at') end
if started and tonumber(started) < tonumber(created) then created = started end
redis.call('HSETNX', hash, 'created_at', created)
for i = 3, #ARGV, 2 do redis.call('HSETNX', hash, ARGV[i], ARGV[i + 1]) end
if ARGV[2] == '0' then redis.call('PERSIST', hash) else redis.call('PEXPIRE', hash, ARGV[2]) end
return 1
