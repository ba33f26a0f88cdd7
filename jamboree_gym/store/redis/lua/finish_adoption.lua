#!lua flags=allow-oom
-- All logs are unacknowledged.
--
-- KEYS: epoch, backup.
-- ARGV: the epoch.

if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('HDEL', KEYS[2], 'unsettled') end
return 1
