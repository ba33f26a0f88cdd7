#!lua flags=allow-oom
-- include: layout
-- Gives a log another birth: it was begun again after a log of this birth had been deleted, or a
-- failover of Redis has lost its deletion. It would never be copied.
--
-- KEYS: log, unbacked, epoch.
-- ARGV: the epoch, its time of birth (8 bytes), its revision, the new time of birth (8 bytes),
--   '1' where what only MongoDB held was deleted with it.
-- Answer: 1, or 0 where the log has changed.

if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
local head, born = read_head(KEYS[1]), struct.unpack('<d', ARGV[2])
if not head or head.err or head.born ~= born then return 0 end
if head.revision ~= tonumber(ARGV[3]) then return 0 end
if head.held > head.first then
  if ARGV[5] ~= '1' then return 0 end
  head.first = head.held
end
head.born, head.acked, head.revision = struct.unpack('<d', ARGV[4]), 0, head.revision + 1
redis.call('LSET', KEYS[1], 0, pack_head(head))
redis.call('ZADD', KEYS[2], head.revision, KEYS[1])
return 1
