#!lua flags=allow-oom
-- A backup has carried out deletions.
--
-- KEYS: backup.
-- ARGV: its mark before them ('' = none), its mark from now on.
-- Answer: 1; 0 where Redis has another mark than the one before: then it may lack deletions, and
-- keeps its mark until somebody has looked.

if (redis.call('HGET', KEYS[1], 'deletions') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'deletions', ARGV[2])
return 1
