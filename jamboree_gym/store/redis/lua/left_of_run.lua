-- Takes a run out of the runs of a bucket, if neither its listing nor any of the logs KEYS[from],
-- KEYS[from + 1]... is there. LLEN is 0 for what is not there, and an error for a listing: who may
-- delete has the right to ask for it.
local function unlist_if_empty(runs, run, summaries, from)
  for _, key in ipairs({summaries, unpack(KEYS, from)}) do
    if redis.pcall('LLEN', key) ~= 0 then return 0 end
  end
  return redis.call('ZREM', runs, run)
end

