-- Bind a key to a value, if it is free or bound to the value that may be replaced. Returns the
-- bound value. (SET with NX and GET together is newer than some servers.)
-- KEYS: 1 the claim; ARGV: 1 value, 2 time to live (ms), 3 the value that may be replaced ('':
-- none)
local bound = redis.call('GET', KEYS[1])
if bound and bound ~= ARGV[3] then return bound end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
