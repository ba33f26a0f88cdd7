#!lua flags=allow-oom
-- KEYS: coverage.
-- ARGV: the expected value, the new one.
-- Answer: 1, or 0 where the value was another.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
