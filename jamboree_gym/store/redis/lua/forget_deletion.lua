#!lua flags=allow-oom
-- include: layout
-- A MongoDB has forgotten a deleted log. That is remembered for a while: an append whose answer was
-- lost may come again, and must not begin the log, also while no MongoDB answers.
--
-- Redis may have lost its note of the deletion before MongoDB knew of it. Then nobody who has asked
-- MongoDB until now may put the log back. It may be here again already: a failover has brought it
-- back, or somebody has read it after Redis was emptied.
--
-- KEYS: deleted, backup, carried_out, deletions, log.
-- ARGV: identity of the log, its time of birth (8 bytes), identity of the MongoDB.
-- Answer: 1 where the log is here again, else 0.

local remembered, remembered_s = 1000, 3600 -- the newest, and for so long after the last
local fields, mongo = redis.call('HGETALL', KEYS[2]), ARGV[3]
for i = 1, #fields, 2 do
  if fields[i] == 'mongo' then mongo = fields[i + 1] end
end
if mongo ~= ARGV[3] then -- another MongoDB acknowledges, which still has to forget the log
  redis.call('HDEL', KEYS[1] .. ':' .. ARGV[3], ARGV[1])
  return 0
end
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 7) == 'former ' then
    redis.call('HSET', KEYS[1] .. ':' .. string.sub(fields[i], 8), ARGV[1], ARGV[2])
  end
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then redis.call('INCR', KEYS[4]) end
redis.call('ZADD', KEYS[3], redis.call('TIME')[1], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -remembered - 1)
redis.call('EXPIRE', KEYS[3], remembered_s)
local head = read_head(KEYS[5])
return head and not head.err and head.born == struct.unpack('<d', ARGV[2]) and 1 or 0
