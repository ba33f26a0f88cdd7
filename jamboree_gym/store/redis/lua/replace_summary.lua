#!lua
-- Replaces a damaged summary.
--
-- KEYS: summaries of a run.
-- ARGV: field, the damaged summary, the right one.
-- Answer: 1, or 0 where another summary is there by now.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
