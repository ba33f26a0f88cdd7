#!lua flags=allow-oom
-- A backup has carried out deletions.
--
-- KEYS: backup, of one bucket.
-- ARGV: its mark before them ('' = none), its mark from now on, the epochs of all buckets in which
-- nothing that it has deleted was left ('' = as noted before).
-- Answer: 1; 0 where Redis has another mark than the one before: then it may lack deletions, and
-- keeps its mark until somebody has looked.

if (redis.call('HGET', KEYS[1], 'deletions') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'deletions', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'deletions_epoch', ARGV[3]) end
return 1
