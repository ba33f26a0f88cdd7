-- KEYS: holder.
-- ARGV: the process that stops copying.

if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
