#!lua flags=allow-oom
-- From now on this MongoDB acknowledges what is in this bucket.
--
-- KEYS: epoch, backup, coverage, deleted.
-- ARGV: identity of the MongoDB, where it is, a new epoch.
-- Answer: {epoch, '1' where all logs have to be unacknowledged, where the former MongoDB is ('' =
-- there is none)}.
--
-- A MongoDB that takes another one's place begins with nothing acknowledged. The new epoch keeps
-- the former one from acknowledging, and `unsettled` stays until all logs were unacknowledged.
-- Deletions from now on are also noted for the former one, which may come back. What was noted for
-- this one while it was away, it has to forget now.

local before, at = redis.call('HGET', KEYS[2], 'mongo'), redis.call('HGET', KEYS[2], 'mongo_at')
local is_other = before and before ~= ARGV[1]
redis.call('HSET', KEYS[2], 'mongo', ARGV[1], 'mongo_at', ARGV[2])
if is_other then
  local noted = KEYS[4] .. ':' .. ARGV[1]
  local deletions = redis.call('HGETALL', noted) -- first: while the slot moves, this may be refused
  redis.call('HSET', KEYS[2], 'unsettled', '1', 'former ' .. before, '1')
  redis.call('HDEL', KEYS[2], 'former ' .. ARGV[1])
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('DEL', KEYS[3])
  for i = 1, #deletions, 2 do redis.call('HSET', KEYS[4], deletions[i], deletions[i + 1]) end
  if #deletions > 0 then redis.call('DEL', noted) end
else
  redis.call('SET', KEYS[1], ARGV[3], 'NX')
end
local unsettled = redis.call('HGET', KEYS[2], 'unsettled') or ''
return {redis.call('GET', KEYS[1]), unsettled, is_other and at or ''}
