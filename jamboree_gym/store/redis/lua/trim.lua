#!lua flags=allow-oom
-- include: layout
-- Evicts records that MongoDB holds.
--
-- KEYS: unbacked, backup, then the logs.
-- ARGV: time (only batches before it may go), bytes (end once this many are free), then for each
-- log:
--   time of birth (8 bytes), how many records MongoDB was just seen to hold,
--   the revision at which its episode was over ('' = it is not over, or the log is no episode).
-- Answer: for each log {freed bytes, time of its oldest batch that may go later ('' = none)}. None
-- for the logs after enough was found.
--
-- A writer that lost the answer to its newest append sends it again, and has to find it. So that
-- append stays until it is a minute old. Several writers may write records, so there everything
-- stays that long that another writer than the newest has written. An episode that came in one
-- append can go at once: sent again, it is the same log from its beginning.

local now, quiet_s = tonumber(redis.call('TIME')[1]), 60
local unbacked, before, enough = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local freed = 0
local function evict(key, head, held, position)
  if held == head.count then
    freed = freed + redis.call('MEMORY', 'USAGE', key)
    if head.codec == CODEC_STEPS then return redis.call('DEL', key) end
  end
  head.held = held
  redis.call('LTRIM', key, position - 1, position == 1 and 0 or -1)
  redis.call('LSET', key, 0, pack_head(head))
end
local function trim_front(key, head, limit)
  local newest_by, position, size = batch_writer(redis.call('LINDEX', key, -1)), 1, 0
  local start, stop, t_first, t_last
  local later = ''
  local function may_go()
    local raw = redis.call('LINDEX', key, position)
    start, stop, t_first, t_last = batch_span(raw)
    local is_fresh = t_last >= now - quiet_s and batch_writer(raw) ~= newest_by
    if stop > limit or (head.codec ~= CODEC_STEPS and is_fresh) then return false end
    if t_last >= before or size >= enough - freed then
      later = string.format('%.17g', t_last)
      return false
    end
    size = size + #raw
    return true
  end
  while may_go() do position = position + 1 end
  if position > 1 then evict(key, head, start, position) end
  freed = freed + size
  return later
end
local function trim(key, born, kept, over_at)
  if redis.call('HGET', KEYS[2], 'unsettled') then return '' end
  local head = read_head(key)
  if not head or head.err or head.born ~= born or redis.call('LLEN', key) < 2 then return '' end
  local is_settled = head.acked == head.count and kept >= head.count
                     and not redis.call('ZSCORE', unbacked, key)
  local is_quiet = head.t_last < now - quiet_s
  local is_over = is_quiet or (head.revision == 1 and head.newest == 0)
  if head.codec == CODEC_STEPS then
    is_over = is_over and tostring(head.revision) == over_at
  else
    is_over = is_quiet
  end
  if is_settled and is_over and head.t_last < before then
    evict(key, head, head.count, 1)
    return ''
  end
  local later = trim_front(key, head, math.min(head.acked, head.newest, kept))
  if later == '' and is_settled and is_over then later = string.format('%.17g', head.t_last) end
  return later
end
local answers = {}
for i = 3, #KEYS do
  if freed >= enough then break end
  local at, freed_before = (i - 3) * 3 + 2, freed
  local worked, later = pcall(trim, KEYS[i], struct.unpack('<d', ARGV[at + 1]),
                              tonumber(ARGV[at + 2]), ARGV[at + 3])
  answers[#answers + 1] = {freed - freed_before, worked and later or ''}
end
if freed > 0 then redis.call('HINCRBY', KEYS[2], 'trimmed_bytes', freed) end
return answers
