#!lua
-- include: same_standing
-- Lists episodes of a run. Those that are listed already stay as they are.
--
-- KEYS: summaries of the run, runs, deletions, epoch.
-- ARGV: the answer of standing.lua before MongoDB was asked, run, time of the run, then for each
-- episode: field, summary.
-- Answer: how many were not listed; nothing when anything was deleted meanwhile, or Redis was
-- emptied.

if not same_standing(KEYS[4], KEYS[3], ARGV[1]) then return nil end
local added = 0
for i = 4, #ARGV, 2 do added = added + redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], 'GT', ARGV[3], ARGV[2])
return added
