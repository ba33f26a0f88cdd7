-- Takes a run off the list of runs, unless episodes of it are listed.
--
-- KEYS: summaries of the run, runs.
-- ARGV: the run.
-- Answer: 1, or 0 where it stays or was not there.

if #redis.call('HGETALL', KEYS[1]) > 0 then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[1])
