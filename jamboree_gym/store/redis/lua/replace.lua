#!lua
-- include: layout
-- KEYS: log, unbacked, epoch.
-- ARGV: the epoch, the head as it is, then what takes its place: head, batches...
-- Answer: 1, or 0 where the log has changed.
--
-- The log is there all the time: on a server of a cluster from which its slot moves, it could not be
-- begun again.

if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[2] then return 0 end
local before = redis.call('LLEN', KEYS[1])
for i = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], before, -1)
redis.call('ZADD', KEYS[2], unpack_head(ARGV[3]).revision, KEYS[1])
return 1
