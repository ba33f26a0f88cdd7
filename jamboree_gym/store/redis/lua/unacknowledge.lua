#!lua flags=allow-oom
-- include: layout
-- Of these logs nothing is acknowledged any more.
--
-- KEYS: unbacked, epoch, then the logs.
-- ARGV: the epoch.
-- Answer: 1, or 0 in another epoch.

if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 3, #KEYS do
  local head = read_head(KEYS[i])
  if head and not head.err then
    head.acked = 0
    redis.call('LSET', KEYS[i], 0, pack_head(head))
    redis.call('ZADD', KEYS[1], head.revision, KEYS[i])
  end
end
return 1
