-- `registered` of core/states.py: what is missing is filled in, and nothing is lost.
-- KEYS: 1 the registry's hash, 2 the result
-- ARGV: 1 made at (microseconds), 2 the hash's time to live (ms, 0: for ever), 3 due at (microseconds; '' where unknown), then
--       fields and values
local hash, result = KEYS[1], KEYS[2]
local known = redis.call('HMGET', hash, 'started_at', 'state', 'created_at', 'heard_at', 'result_stored', 'task', 'owner',
    'due_at')
local made, started, root = ARGV[1], known[1], root_of(hash, result)
local created, listed = made, known[4] or known[3]

local due, kept = ARGV[3] ~= '' and ARGV[3], ARGV[2]

if due then
    redis.call('HSET', hash, 'due_at', due)
    kept = until_due(due, made, kept)
elseif known[8] then
    redis.call('HDEL', hash, 'due_at')
end
if ENDS[known[2]] then redis.call('HDEL', hash, 'cancel_requested_at') end
if known[2] == 'SUCCESS' and known[5] ~= '1' then
    redis.call('HDEL', hash, 'state', 'finished_at', 'progress', 'progress_attempt')
    redis.call('HSET', hash, 'updated_at', made)
    forget(hash)
    leave(root, 'in:completed', result, listed)
    enter(root, 'in:pending', result, listed, made, kept)
    if known[6] then enter_named(root, 'of:' .. known[6], result, listed, made, kept) end
    if known[7] then enter_named(root, 'by:' .. known[7], result, listed, made, kept) end
end
if started and tonumber(started) < tonumber(made) then created = started end
if not known[3] then redis.call('HSET', hash, 'created_at', created) end
if not listed then
    listed = created
    enter(root, 'in:pending', result, listed, made, kept)
end
for i = 4, #ARGV, 2 do
    local index = ARGV[i] == 'task' and 'of:' or ARGV[i] == 'owner' and 'by:'
    if redis.call('HSETNX', hash, ARGV[i], ARGV[i + 1]) == 1 and index then
        enter_named(root, index .. ARGV[i + 1], result, listed, made, kept)
    end
end
prolong(hash, kept)
return 1
