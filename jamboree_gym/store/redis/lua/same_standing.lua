-- Whether the answer of standing.lua would still be this one.
local function same_standing(epoch, deletions, standing)
  local now = redis.call('GET', epoch)
  return now and now .. ' ' .. (redis.call('GET', deletions) or '0') == standing
end
