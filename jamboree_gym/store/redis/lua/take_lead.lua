#!lua flags=allow-oom
-- Makes one process the one that copies to MongoDB.
--
-- KEYS: holder, backup.
-- ARGV: who wants to be, for how long (ms), from whom it may be taken ('' = from nobody), where it
-- copies to, where the namespace is to be copied to as far as it knows, '1' where that is to
-- change: then a process that copies elsewhere is the holder no longer.
-- Answer: {who is the holder now ('' = nobody), where the namespace is to be copied to}.
--
-- A full server takes it, too: it must not keep the backup from running.

local before = redis.call('HGET', KEYS[2], 'to')
local to = before or ARGV[5]
if ARGV[6] == '1' then to = ARGV[4] end
if to ~= before then
  redis.call('HSET', KEYS[2], 'to', to, 'to_id', '')
  if before then redis.call('DEL', KEYS[1]) end
end
local held = redis.call('GET', KEYS[1])
if to ~= ARGV[4] then
  if held == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return {'', to}
end
if held and held ~= ARGV[1] and held ~= ARGV[3] then return {held, to} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1], to}
