#!lua flags=allow-oom
-- A MongoDB has forgotten a deleted log.
--
-- KEYS: deleted, backup.
-- ARGV: identity of the log, its time of birth (8 bytes), identity of the MongoDB.
-- Answer: 1, or 0 where another MongoDB acknowledges, which still has to forget the log.

local fields, mongo = redis.call('HGETALL', KEYS[2]), ARGV[3]
for i = 1, #fields, 2 do
  if fields[i] == 'mongo' then mongo = fields[i + 1] end
end
if mongo ~= ARGV[3] then
  redis.call('HDEL', KEYS[1] .. ':' .. ARGV[3], ARGV[1])
  return 0
end
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 7) == 'former ' then
    redis.call('HSET', KEYS[1] .. ':' .. string.sub(fields[i], 8), ARGV[1], ARGV[2])
  end
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
