-- Bind a key to a value unless it is bound, and say what it is bound to. (SET with NX and GET together is newer than some servers.)
-- KEYS: 1 the claim; ARGV: 1 value, 2 time to live (ms)
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end
return redis.call('GET', KEYS[1])
