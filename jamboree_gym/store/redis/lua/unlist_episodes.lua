#!lua flags=allow-oom
-- Takes those episodes out of a listing whose logs are not here. If they are in MongoDB, the listing
-- is marked as not complete; nothing is done if it is not known to have been complete.
--
-- KEYS: unbacked, coverage, summaries, then the logs of listed episodes.
-- ARGV: '1' where they were deleted, so that no backup has them; their ids.
-- Answer: how many were taken out.

local coverage, gone, are_deleted = redis.call('GET', KEYS[2]), {}, ARGV[1] == '1'
if not are_deleted and coverage ~= 'all' and coverage ~= 'part' then return 0 end
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 and not redis.call('ZSCORE', KEYS[1], KEYS[i]) then
    gone[#gone + 1] = ARGV[i - 2]
  end
end
if #gone > 0 then
  if not are_deleted then redis.call('SET', KEYS[2], 'part') end
  redis.call('HDEL', KEYS[3], unpack(gone))
end
return #gone
