#!lua
-- include: layout, same_standing
-- KEYS: log, summaries, runs, deletions, unbacked, epoch, backup.
-- ARGV: the answer of standing.lua before MongoDB was asked, summary field ('' = none), summary,
-- run ('' = none), time of the run, damaged head ('' = none), head, identity of the MongoDB, where it is,
-- newest batch here that MongoDB holds, too ('' = unknown), batches...
-- Answer: 1 when the log was put back; 0 when Redis already holds as much or more, or when anything
-- was deleted meanwhile, or Redis was emptied.
--
-- A log with that damaged head is replaced if MongoDB has acknowledged all of it, and no batch
-- reaches beyond what is put back. A log that holds less is replaced if MongoDB holds its newest
-- batch, too: it is the one that is named, or among those that are put back; and if nothing was
-- popped here that is put back, else the next copy joins the two. Batches of a MongoDB that does not
-- acknowledge stay unacknowledged.
--
-- A full server refuses this script, replace.lua and refill.lua before they do anything: the first
-- line sees to that. The log is there all the time, as in replace.lua.

if not same_standing(KEYS[6], KEYS[4], ARGV[1]) then return 0 end
local given = unpack_head(ARGV[7])
local count, revision = given.count, given.revision
local is_damaged = ARGV[6] ~= ''
if is_damaged then
  if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[6] then return 0 end
  if redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end
  local is_read, _, stop = pcall(batch_span, redis.call('LINDEX', KEYS[1], -1))
  if redis.call('LLEN', KEYS[1]) > 1 and is_read and stop > count then return 0 end
end
local head = not is_damaged and read_head(KEYS[1])
if head and head.err then return head end
if head then
  if head.count > count or head.revision >= revision then return 0 end
  if head.born == given.born and head.first > given.first then return 0 end
  local newest, is_among = redis.call('LINDEX', KEYS[1], -1), redis.call('LLEN', KEYS[1]) == 1
  for i = 10, #ARGV do is_among = is_among or ARGV[i] == newest end -- 10: the one that is named
  if not is_among and redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end
end
local before = redis.call('LLEN', KEYS[1])
redis.call('RPUSH', KEYS[1], ARGV[7])
for i = 11, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
if before > 0 then redis.call('LTRIM', KEYS[1], before, -1) end
if ARGV[8] ~= '' and not redis.call('HGET', KEYS[7], 'mongo') then
  redis.call('HSET', KEYS[7], 'mongo', ARGV[8], 'mongo_at', ARGV[9])
end
if redis.call('HGET', KEYS[7], 'mongo') ~= ARGV[8] then
  local back = read_head(KEYS[1])
  back.acked = 0
  redis.call('LSET', KEYS[1], 0, pack_head(back))
  redis.call('ZADD', KEYS[5], revision, KEYS[1])
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
if ARGV[4] ~= '' then redis.call('ZADD', KEYS[3], 'GT', ARGV[5], ARGV[4]) end
return 1
