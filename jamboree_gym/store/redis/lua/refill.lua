#!lua
-- include: layout
-- Puts older batches in front of the others.
--
-- KEYS: log.
-- ARGV: time of birth (8 bytes), index from which on Redis holds its batches, the same afterwards,
-- batches that end there...
-- Answer: 1, or 0 where the log has changed.
--
-- The log is there all the time, as in replace.lua. So the last of the batches takes the place of the
-- head.

local head = read_head(KEYS[1])
if head and head.err then return head end
local born = struct.unpack('<d', ARGV[1])
if not head or head.born ~= born or head.held ~= tonumber(ARGV[2]) then return 0 end
head.held = tonumber(ARGV[3])
if #ARGV == 3 then
  redis.call('LSET', KEYS[1], 0, pack_head(head))
  return 1
end
redis.call('LSET', KEYS[1], 0, ARGV[#ARGV])
for i = #ARGV - 1, 4, -1 do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LPUSH', KEYS[1], pack_head(head))
return 1
