#!lua flags=allow-oom
-- KEYS: epoch, deletions.
-- ARGV: the epoch to set where there is none.
-- Answer: epoch and number of deletions. While both stay the same, nothing that MongoDB holds was
-- deleted.

redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1]) .. ' ' .. (redis.call('GET', KEYS[2]) or '0')
