#!lua flags=allow-oom
-- Takes those episodes out of a listing whose logs are not here. If they are in MongoDB, the listing
-- is marked as not complete; whoever is just completing it begins again.
--
-- KEYS: unbacked, coverage, summaries, then the logs of listed episodes.
-- ARGV: '1' where they were deleted, so that no backup has them; their ids.
-- Answer: how many were taken out.

local coverage, gone, are_deleted = redis.call('GET', KEYS[2]), {}, ARGV[1] == '1'
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 and not redis.call('ZSCORE', KEYS[1], KEYS[i]) then
    gone[#gone + 1] = ARGV[i - 2]
  end
end
if #gone > 0 then
  if coverage and not are_deleted then
    local is_known = coverage == 'all' or coverage == 'part'
    redis.call('SET', KEYS[2], is_known and 'part' or 'unknown')
  end
  redis.call('HDEL', KEYS[3], unpack(gone))
end
return #gone
