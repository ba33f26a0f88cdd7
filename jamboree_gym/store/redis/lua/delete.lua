-- include: layout, left_of_run
-- Deletes a log, and notes in the same step that MongoDB has to forget it. Whether MongoDB holds it
-- cannot be known here: a copy may be on its way.
--
-- A run of which this was the last is not listed in this bucket any more. In a listing of which a
-- part is in MongoDB only, that cannot be known here.
--
-- KEYS: log, unbacked, summaries, deleted, deletions, runs, coverage, then the run's logs of
--   sessions, metrics and checkpoints that are in this bucket.
-- ARGV: summary field ('' = none), time of birth (8 bytes, '' = as in the log), run ('' = none),
--   '1' where a log of another birth stays.
-- Answer: the time of birth (8 bytes); nothing where there was no log and no birth was given.

local head, born = read_head(KEYS[1]), ARGV[2]
if head and not head.err then
  if ARGV[4] == '1' and head.born ~= struct.unpack('<d', born) then return nil end
  born = struct.pack('<d', head.born)
end
if ARGV[1] ~= '' then redis.call('HDEL', KEYS[3], ARGV[1]) end
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[5])
if ARGV[3] ~= '' and redis.call('GET', KEYS[7]) ~= 'part' then
  unlist_if_empty(KEYS[6], ARGV[3], KEYS[3], 8)
end
if born == '' then return nil end
redis.call('HSET', KEYS[4], identity(KEYS[1], struct.unpack('<d', born)), born)
return born
