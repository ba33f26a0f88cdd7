#!lua flags=allow-oom
-- include: layout
-- KEYS: unbacked, epoch, then the logs.
-- ARGV: the epoch in which the logs were read, then for each log what MongoDB holds now: count,
-- revision, time of birth (8 bytes).
-- Answer: for each log 1; 0 where it is gone or another log is there; -1 where Redis holds less
-- than was read, or it was read in another epoch: MongoDB may hold what Redis has lost.
--
-- May use more memory than the server has been given: only acknowledged records can be evicted.

local is_same_epoch = redis.call('GET', KEYS[2]) == ARGV[1]
local answers = {}
for i = 3, #KEYS do
  local at = (i - 3) * 3 + 1
  local count, revision = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local born = struct.unpack('<d', ARGV[at + 3])
  local head = read_head(KEYS[i])
  if not is_same_epoch then
    answers[#answers + 1] = -1
  elseif not head or head.err or head.born ~= born then
    answers[#answers + 1] = 0
  elseif head.count < count or head.revision < revision then
    answers[#answers + 1] = -1
  else
    if count > head.acked then
      head.acked = count
      redis.call('LSET', KEYS[i], 0, pack_head(head))
    end
    local pending = redis.call('ZSCORE', KEYS[1], KEYS[i])
    if pending and tonumber(pending) <= revision then redis.call('ZREM', KEYS[1], KEYS[i]) end
    answers[#answers + 1] = 1
  end
end
return answers
