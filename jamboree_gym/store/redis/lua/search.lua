-- First position at or after which all batches satisfy a condition. Looks at the newest first.
local function lower_bound(key, is_at_or_after)
  local high, step, low = redis.call('LLEN', key), 1, 0
  while high - step >= 1 do
    local position = high - step
    if is_at_or_after(batch_span(redis.call('LINDEX', key, position))) then
      high, step = position, step * 2
    else
      low = position
      break
    end
  end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if is_at_or_after(batch_span(redis.call('LINDEX', key, middle))) then
      high = middle
    else
      low = middle
    end
  end
  return high
end
