#!lua flags=allow-oom
-- For the little that has to be written to a full server, too: leases, the state of the backup, the
-- retention policy.
--
-- KEYS: the key to write.
-- ARGV: SET or HSET, and its other arguments.
-- Answer: the command's.

return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
