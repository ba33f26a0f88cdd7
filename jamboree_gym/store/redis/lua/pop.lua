-- include: layout, search
-- KEYS: log, unbacked.
-- ARGV: n, the log's first index as the caller knows it.
-- Answer: {first index taken, index after the last, batches that hold them}; nothing where the first
-- batches are in MongoDB only, unless the caller has read them there.
--
-- Taken batches stay behind `first` until their records are ten minutes old. A writer that lost the
-- answer to its append still finds its batch there, and does not add it again.

local grace_s = 600
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
local forget_before = tonumber(redis.call('TIME')[1]) - grace_s
local keep_from = lower_bound(KEYS[1], function(start, stop, t_first, t_last)
  return stop > taken_to or t_last > forget_before
end)
redis.call('LTRIM', KEYS[1], keep_from - 1, -1)
redis.call('LSET', KEYS[1], 0, pack_head(head))
redis.call('ZADD', KEYS[2], head.revision, KEYS[1])
return {taken_from, taken_to, batches}
