-- Bind a key to a value, unless it is bound to another one than may be replaced, and say what it is bound to. (SET with NX and GET
-- together is newer than some servers.)
-- KEYS: 1 the claim; ARGV: 1 value, 2 time to live (ms), 3 what may be replaced ('': nothing)
local bound = redis.call('GET', KEYS[1])
if bound and bound ~= ARGV[3] then return bound end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
