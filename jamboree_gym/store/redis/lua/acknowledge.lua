#!lua flags=allow-oom
-- include: layout, search
-- KEYS: unbacked, epoch, then the logs.
-- ARGV: the epoch in which the logs were read, then for each log what MongoDB holds now: count,
-- revision, time of birth, time of the newest record (8 bytes each).
-- Answer: for each log 1; 0 where it is gone or another log is there; -1 where Redis holds less
-- than was read, or other records, or it was read in another epoch: MongoDB may hold what Redis has
-- lost. After a failover, others may have taken the place of what was lost.
--
-- May use more memory than the server has been given: only acknowledged records can be evicted.

-- Whether the log still has the record that was the newest of those that were read. What is
-- acknowledged or popped may be gone.
local function has_newest(key, head, count, t_last)
  if count == head.count then return head.t_last == t_last end
  if count <= math.max(head.acked, head.first) then return true end
  local position = lower_bound(key, function(start, stop) return stop >= count end)
  local raw = redis.call('LINDEX', key, position)
  if not raw then return false end
  local _, stop, _, newest = batch_span(raw)
  return stop == count and newest == t_last
end
local is_same_epoch = redis.call('GET', KEYS[2]) == ARGV[1]
local answers, settled = {}, {}
for i = 3, #KEYS do
  local at = (i - 3) * 4 + 1
  local count, revision = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local born, t_last = struct.unpack('<d', ARGV[at + 3]), struct.unpack('<d', ARGV[at + 4])
  local head = read_head(KEYS[i])
  if not is_same_epoch then
    answers[#answers + 1] = -1
  elseif not head or head.err or head.born ~= born then
    answers[#answers + 1] = 0
  elseif head.count < count or head.revision < revision
      or not has_newest(KEYS[i], head, count, t_last) then
    answers[#answers + 1] = -1
  else
    if count > head.acked then
      head.acked = count
      redis.call('LSET', KEYS[i], 0, pack_head(head))
    end
    local pending = redis.call('ZSCORE', KEYS[1], KEYS[i])
    if pending and tonumber(pending) <= revision then settled[#settled + 1] = KEYS[i] end
    answers[#answers + 1] = 1
  end
end
-- At last: when `unbacked` is empty, it is gone, and could not be read while its slot moves.
for _, log in ipairs(settled) do redis.call('ZREM', KEYS[1], log) end
return answers
