-- include: layout, search
-- KEYS: log.
-- ARGV: one of
--   'range' start stop | 'last' n | 'between' t0 t1 before | 'as_of' t before |
--   'unacked' | 'all' | 'rest' start stop
-- then the limit: how many bytes of batches may be answered. At least one batch always is.
-- Answer: {head, batches} with every batch that overlaps; nothing where there is no such log. Where
-- the limit cuts the answer off: {head, the first batches, index after the last one wanted}.
--
-- `before`: how many more batches to answer in front of them, because a step begins where the row
-- before it ends. 'all', 'unacked' and 'rest' include records that were popped and still are there.

local head = read_head(KEYS[1])
if not head then return nil end
if head.err then return head end
local how, a, b = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local from, to
if how == 'as_of' then
  to = lower_bound(KEYS[1], function(start, stop, t_first) return t_first > a end) - 1
  from = to
elseif how == 'between' then
  from = lower_bound(KEYS[1], function(start, stop, t_first, t_last) return t_last >= a end)
  to = lower_bound(KEYS[1], function(start, stop, t_first) return t_first > b end) - 1
else
  if how == 'all' then
    a, b = 0, head.count
  elseif how == 'unacked' then
    a, b = head.acked, head.count
  elseif how ~= 'rest' then
    if how == 'last' then a, b = head.count - a, head.count end
    a = math.max(a, head.first)
  end
  from = lower_bound(KEYS[1], function(start, stop) return stop > a end)
  to = redis.call('LLEN', KEYS[1]) - 1
  if b < head.count then
    to = lower_bound(KEYS[1], function(start) return start >= b end) - 1
  end
end
if from < 1 or to < from then return {pack_head(head), {}} end
if how == 'as_of' then from = math.max(1, from - b) end
if how == 'between' then from = math.max(1, from - tonumber(ARGV[4])) end
local limit, size, position = tonumber(ARGV[#ARGV]), 0, from
local batches = {}
while position <= to do
  local fit = size == 0 and 1 or math.floor((limit - size) / (size / #batches)) + 1
  local some_to = math.min(to, position + math.max(1, math.min(fit, 1000)) - 1)
  local some = redis.call('LRANGE', KEYS[1], position, some_to)
  for _, batch in ipairs(some) do
    if size > 0 and size + #batch > limit then
      local _, stop = batch_span(redis.call('LINDEX', KEYS[1], to))
      return {pack_head(head), batches, stop}
    end
    size = size + #batch
    batches[#batches + 1] = batch
  end
  position = position + #some
end
return {pack_head(head), batches}
