-- include: layout
-- Deletes a log, and notes in the same step that MongoDB has to forget it. Whether MongoDB holds it
-- cannot be known here: a copy may be on its way.
--
-- KEYS: log, unbacked, summaries, deleted, deletions.
-- ARGV: summary field ('' = none), time of birth (8 bytes, '' = as in the log).
-- Answer: the time of birth (8 bytes); nothing where there was no log and no birth was given.

local head, born = read_head(KEYS[1]), ARGV[2]
if head and not head.err then born = struct.pack('<d', head.born) end
if ARGV[1] ~= '' then redis.call('HDEL', KEYS[3], ARGV[1]) end
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[5])
if born == '' then return nil end
redis.call('HSET', KEYS[4], identity(KEYS[1], struct.unpack('<d', born)), born)
return born
