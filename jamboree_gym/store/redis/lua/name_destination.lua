#!lua flags=allow-oom
-- Notes which MongoDB it is that the namespace is copied to.
--
-- KEYS: backup.
-- ARGV: identity of the MongoDB, in which words the namespace is copied there automatically ('' =
-- it is not).

if redis.call('HGET', KEYS[1], 'to') == ARGV[2] then
  redis.call('HSET', KEYS[1], 'to_id', ARGV[1])
end
return 1
