-- include: layout, search
-- KEYS: log, unbacked.
-- ARGV: n, the log's first index as the caller knows it.
-- Answer: {first index taken, index after the last, batches that hold them}; nothing where the first
-- batches are in MongoDB only, unless the caller has read them there.
--
-- Taken batches stay behind `first` for ten minutes. A writer that lost the answer to its append
-- still finds its batch there, and does not add it again. So the note of the head tells in which
-- minutes something was taken, and up to which index. The times of the records do not tell that:
-- their writer's clock may be slow, or they may have waited for long.

local grace_s, minute_s = 600, 60
local head = read_head(KEYS[1])
if not head then return {0, 0, {}} end
if head.err then return head end
local taken_from = head.first
local taken_to = math.min(head.first + tonumber(ARGV[1]), head.count)
if taken_to <= taken_from then return {taken_from, taken_from, {}} end
if head.held > taken_from and ARGV[2] ~= string.format('%.0f', taken_from) then return nil end
local from = lower_bound(KEYS[1], function(start, stop) return stop > taken_from end)
local after = lower_bound(KEYS[1], function(start) return start >= taken_to end)
local batches = redis.call('LRANGE', KEYS[1], from, after - 1)
head.first, head.revision = taken_to, head.revision + 1
local now, forget_to, taken = tonumber(redis.call('TIME')[1]), 0, {}
local minute = now - now % minute_s
for at = 1, #head.note - 15, 16 do
  local began, first = struct.unpack('<dd', head.note, at)
  if began + minute_s + grace_s <= now then
    forget_to = math.max(forget_to, first)
  elseif began ~= minute then
    taken[#taken + 1] = string.sub(head.note, at, at + 15)
  end
end
taken[#taken + 1] = struct.pack('<dd', minute, taken_to)
head.note = table.concat(taken)
local keep_from = lower_bound(KEYS[1], function(start, stop)
  return stop > taken_to or stop > forget_to
end)
redis.call('LTRIM', KEYS[1], keep_from - 1, -1)
redis.call('LSET', KEYS[1], 0, pack_head(head))
redis.call('ZADD', KEYS[2], head.revision, KEYS[1])
return {taken_from, taken_to, batches}
