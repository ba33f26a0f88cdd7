#!lua flags=allow-oom
-- Takes those episodes out of a listing whose logs are in MongoDB only, and marks the listing as
-- not complete. Does nothing if it is not known to have been complete.
--
-- KEYS: unbacked, coverage, summaries, then the logs of listed episodes.
-- ARGV: their ids.
-- Answer: how many were taken out.

local coverage, gone = redis.call('GET', KEYS[2]), {}
if coverage ~= 'all' and coverage ~= 'part' then return 0 end
for i = 4, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 and not redis.call('ZSCORE', KEYS[1], KEYS[i]) then
    gone[#gone + 1] = ARGV[i - 3]
  end
end
if #gone > 0 then
  redis.call('SET', KEYS[2], 'part')
  redis.call('HDEL', KEYS[3], unpack(gone))
end
return #gone
