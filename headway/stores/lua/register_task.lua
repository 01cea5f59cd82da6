-- `apply_registration` of core/states.py: missing fields are filled in, nothing is overwritten.
-- KEYS: 1 the registry's hash, 2 the result
-- ARGV: 1 created at (microseconds), 2 the hash's time to live (ms, 0: for ever),
--       3 expected by (microseconds; '' if unknown), then fields and values
local hash, result = KEYS[1], KEYS[2]
local known = redis.call('HMGET', hash, 'started_at', 'state', 'created_at', 'heard_at',
    'result_stored', 'task', 'owner', 'due_at')
local made, started, prefix = ARGV[1], known[1], key_prefix(hash, result)
local created, first_seen = made, known[4] or known[3]

local due, kept = ARGV[3] ~= '' and ARGV[3], ARGV[2]

if due then
    redis.call('HSET', hash, 'due_at', due)
    kept = ttl_until_expected(due, made, kept)
elseif known[8] then
    redis.call('HDEL', hash, 'due_at')
end
if TERMINAL[known[2]] then redis.call('HDEL', hash, 'cancel_requested_at') end
if known[2] == 'SUCCESS' and known[5] ~= '1' then
    redis.call('HDEL', hash, 'state', 'finished_at', 'progress', 'progress_attempt')
    redis.call('HSET', hash, 'updated_at', made)
    delete_history(hash)
    index_remove(prefix, 'in:completed', result, first_seen)
    index_add(prefix, 'in:pending', result, first_seen, made, kept)
    if known[6] then index_add_named(prefix, 'of:' .. known[6], result, first_seen, made, kept) end
    if known[7] then index_add_named(prefix, 'by:' .. known[7], result, first_seen, made, kept) end
end
if started and tonumber(started) < tonumber(made) then created = started end
if not known[3] then redis.call('HSET', hash, 'created_at', created) end
if not first_seen then
    first_seen = created
    index_add(prefix, 'in:pending', result, first_seen, made, kept)
end
for i = 4, #ARGV, 2 do
    local index = ARGV[i] == 'task' and 'of:' or ARGV[i] == 'owner' and 'by:'
    if redis.call('HSETNX', hash, ARGV[i], ARGV[i + 1]) == 1 and index then
        index_add_named(prefix, index .. ARGV[i + 1], result, first_seen, made, kept)
    end
end
refresh_ttl(hash, kept)
return 1
