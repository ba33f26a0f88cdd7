"""The server-side scripts: everything that must be decided in one atomic step is decided here.

Each works on logs: lists whose element 0 is the head and whose other elements are frames, both laid
out as in `codec.py`. `APPEND` takes many logs, the others one, `KEYS[1]`. Scripts are sent by their
digest (EVALSHA) and loaded again whenever the server has forgotten them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1

__all__ = [
    "ACKNOWLEDGE",
    "ADOPT",
    "ADOPTED",
    "ALL",
    "APPEND",
    "BEAR_ANEW",
    "DELETE",
    "EPOCH",
    "FEED_ENTRIES",
    "FORGET",
    "HOLD",
    "LET_GO",
    "LIST",
    "MEND",
    "POP",
    "PUT",
    "READ",
    "REFILL",
    "REPLACE",
    "RESTORE",
    "SETTLE",
    "STANDING",
    "TRIM",
    "UNACKNOWLEDGE",
    "UNLIST",
    "Script",
]


@dataclass(frozen=True, slots=True)
class Script:
    """Source of a script and the digest under which the server knows it."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "sha", sha)


_HEAD = """
local function read_head(key)
  local raw = redis.call('LINDEX', key, 0)
  if not raw then return nil end
  if #raw < 3 or string.sub(raw, 1, 2) ~= 'JH' then
    return redis.error_reply('JAMBOREEFORMAT there is no head in ' .. key)
  end
  local version = string.byte(raw, 3)
  if version == 1 then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' was written by an older '
                             .. 'release; bring the store up to date: jamboree-gym migrate')
  end
  if version ~= 2 then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' is of format '
                             .. version .. ', which this release does not know')
  end
  if #raw < 76 or string.sub(redis.sha1hex(string.sub(raw, 1, 68)), 1, 8) ~= string.sub(raw, 69, 76)
  then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' is damaged')
  end
  local _, _, codec, first, held, newest, count, acked, revision, t_last, born =
    struct.unpack('<c2BBI8I8I8I8I8I8dd', raw)
  if acked > count then acked = 0 end
  return {codec = codec, first = first, held = held, newest = newest, count = count, acked = acked,
          revision = revision, t_last = t_last, born = born, note = string.sub(raw, 77)}
end
local function pack_head(head)
  local fixed = struct.pack('<c2BBI8I8I8I8I8I8dd', 'JH', 2, head.codec, head.first, head.held,
                            head.newest, head.count, head.acked, head.revision, head.t_last,
                            head.born)
  return fixed .. string.sub(redis.sha1hex(fixed), 1, 8) .. head.note
end
local function identity(key, born)
  local function hexadecimal(byte) return string.format('%02x', string.byte(byte)) end
  return key .. '#' .. string.gsub(struct.pack('>d', born), '.', hexadecimal)
end
local function frame_span(raw)
  local count, start, writer, t_first, t_last = struct.unpack('<I4I8c8dd', raw, 5)
  return start, start + count, t_first, t_last
end
"""

# First position at or after which all frames satisfy a condition. Looks at the newest first.
_SEARCH = """
local function lower_bound(key, is_at_or_after)
  local high, step, low = redis.call('LLEN', key), 1, 0
  while high - step >= 1 do
    local position = high - step
    if is_at_or_after(frame_span(redis.call('LINDEX', key, position))) then
      high, step = position, step * 2
    else
      low = position
      break
    end
  end
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    if is_at_or_after(frame_span(redis.call('LINDEX', key, middle))) then
      high = middle
    else
      low = middle
    end
  end
  return high
end
"""

# KEYS: epoch. ARGV: what it shall be where there is none: Redis was emptied, or is new.
# Answers what it is. A full server takes it, too.
EPOCH = Script(
    """#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
)

# KEYS: unbacked, runs, feed, coverage, epoch, deleted, then for each append: log, summaries
# ARGV: '1' where MongoDB can be asked, the epoch that the sender knows, a new one, then for each
#       append: codec, note ('' keeps the old one), summary field ('' = none), summary, run, run
#       time, records in the log after it, '1' where it may have been stored by an earlier try, the
#       epoch in which MongoDB was asked for the log, number of frames, frames...
# In another epoch nothing is done, and the answer is that epoch: what the sender remembers of the
# server is not true any more.
# Answers for each append {k, count, t_last}, or its error: the first k frames are in the log, from
# now or from an earlier try; frame k + 1 does not continue it, because another writer was there
# first. One log's error does not keep the others from being appended to.
#
# Sent again after a lost answer, it changes nothing. Yet it writes the head anew, as WAITAOF waits
# only for what its own connection has written. The listings come first: should a foreign value lie
# under their names, then the error leaves the log as it was. Note and listing tell of what there is
# after the last frame, so where that is refused, they are not written.
#
# What was moved behind records that only MongoDB held (`REPLACE`) is known again by all but its
# index.
#
# A log that is not there is begun by its first frame only, else the answer is {0, 0, -inf}. So it
# is where MongoDB has to be asked before: for records where Redis was emptied, and it is not known
# yet what MongoDB holds; for a try that is not the first, because the log may have been deleted
# after that. Where that is noted here, the answer is {-1, 0, -inf}. A log that is begun on purpose
# has another birth than one that was deleted.
#
# Of a log that is listed, the feed tells that it has changed, if there is a feed: who follows makes
# it. It keeps its newest entries (`FEED_ENTRIES`, and some more, to forget the others cheaply).
FEED_ENTRIES = 10_000
APPEND = Script(
    _HEAD
    + _SEARCH
    + f"local feed_entries = {FEED_ENTRIES}"
    + """
local unbacked, runs, feed, deleted = KEYS[1], KEYS[2], KEYS[3], KEYS[6]
local epoch = redis.call('GET', KEYS[5])
if not epoch then
  epoch = ARGV[3]
  redis.call('SET', KEYS[5], epoch)
end
if epoch ~= ARGV[2] then return epoch end
local can_ask = ARGV[1] == '1'
local function is_stored(key, raw, start)
  local position = lower_bound(key, function(stored_start) return stored_start >= start end)
  return redis.call('LINDEX', key, position) == raw
end
local function was_moved(key, raw)
  local newest = redis.call('LLEN', key) - 1
  for position = newest, math.max(1, newest - 255), -1 do
    local other = redis.call('LINDEX', key, position)
    if string.sub(other, 5, 8) == string.sub(raw, 5, 8)
      and string.sub(other, 17, 40) == string.sub(raw, 17, 40)
      and string.sub(other, 45) == string.sub(raw, 45) then return true end
  end
  return false
end
local function append(key, summaries, at)
  local note, field, after = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 6])
  local is_repeated, was_asked_for = ARGV[at + 7] == '1', ARGV[at + 8] == epoch
  local count_of_frames = tonumber(ARGV[at + 9])
  local head, born = read_head(key), nil
  if head and head.err then return head end
  local fresh = not head
  if fresh then
    if count_of_frames > 0 then
      local _, _, t_first = frame_span(ARGV[at + 10])
      born = t_first
      while redis.call('HGET', deleted, identity(key, born)) do
        if is_repeated then return {-1, 0, '-inf'} end
        born = born + math.max(2 ^ -20, math.abs(born) * 2 ^ -51)
      end
    end
    if can_ask and not was_asked_for then
      local is_covered = ARGV[at] ~= '1' or redis.call('EXISTS', KEYS[4]) == 1
      if is_repeated or not is_covered then return {0, 0, '-inf'} end
    end
    head = {codec = tonumber(ARGV[at]), first = 0, held = 0, newest = 0, count = 0, acked = 0,
            revision = 0, t_last = -math.huge, born = -math.huge, note = ''}
  end
  local accepted, stored, begins_at = {}, 0, head.count
  for i = at + 10, at + 9 + count_of_frames do
    local start, stop, t_first, t_last = frame_span(ARGV[i])
    if start == head.count and t_first > head.t_last then
      if start == 0 then head.born = born end
      accepted[#accepted + 1] = ARGV[i]
      head.count, head.t_last = stop, t_last
    elseif #accepted > 0 or not (is_stored(key, ARGV[i], start)
      or (is_repeated and head.codec == 1 and was_moved(key, ARGV[i]))) then
      break
    end
    stored = stored + 1
  end
  if fresh and #accepted == 0 then return {0, 0, '-inf'} end
  if stored < count_of_frames or (count_of_frames == 0 and head.count ~= after) then
    note, field = '', ''
  end
  local is_change = #accepted > 0 or (note ~= '' and note ~= head.note)
  if field ~= '' then
    redis.call('HSET', summaries, field, ARGV[at + 3])
    redis.call('ZADD', runs, 'GT', ARGV[at + 5], ARGV[at + 4])
    if is_change and redis.call('EXISTS', feed) == 1 then
      redis.call('XADD', feed, 'MAXLEN', '~', feed_entries, '*',
                 'episode', field, 'run', ARGV[at + 4])
    end
  end
  if is_change then
    head.revision = head.revision + 1
    if #accepted > 0 then head.newest = begins_at end
    if note ~= '' then head.note = note end
    redis.call('ZADD', unbacked, head.revision, key)
    if fresh then
      redis.call('RPUSH', key, pack_head(head), unpack(accepted))
    else
      redis.call('LSET', key, 0, pack_head(head))
      if #accepted > 0 then redis.call('RPUSH', key, unpack(accepted)) end
    end
  elseif stored > 0 then
    redis.call('LSET', key, 0, pack_head(head))
  end
  return {stored, head.count, string.format('%.17g', head.t_last)}
end
local answers, at = {}, 4
for i = 7, #KEYS, 2 do
  local worked, answer = pcall(append, KEYS[i], KEYS[i + 1], at)
  if not worked then answer = {err = type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[#answers + 1] = answer
  at = at + 10 + tonumber(ARGV[at + 9])
end
return answers
"""
)

# KEYS: log.
# ARGV: 'range' start stop | 'last' n | 'between' t0 t1 before | 'as_of' t before |
#       'unacked' | 'all' | 'rest' start stop; then how many bytes of frames may be answered: at
#       least one frame always is.
# Answers {head, frames} with every frame that overlaps, or nothing when there is no such log.
# Where these are too many bytes: the first of them, and the index after the last of them.
# `before`: so many frames more in front of them, as a step begins where the row before it ends.
# 'all', 'unacked' and 'rest' include what has been popped and is not forgotten yet.
PART_BYTES = 8 << 20
"""How large an answer a reader asks for at once."""
READ = Script(
    _HEAD
    + _SEARCH
    + """
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
local frames = {}
while position <= to do
  local fit = size == 0 and 1 or math.floor((limit - size) / (size / #frames)) + 1
  local some_to = math.min(to, position + math.max(1, math.min(fit, 1000)) - 1)
  local some = redis.call('LRANGE', KEYS[1], position, some_to)
  for _, frame in ipairs(some) do
    if size > 0 and size + #frame > limit then
      local _, stop = frame_span(redis.call('LINDEX', KEYS[1], to))
      return {pack_head(head), frames, stop}
    end
    size = size + #frame
    frames[#frames + 1] = frame
  end
  position = position + #some
end
return {pack_head(head), frames}
"""
)

# KEYS: log, unbacked. ARGV: n, the first index as the caller knows it.
# Taken frames stay behind `first` until their records are ten minutes old, so that a writer which
# lost the answer to its append still finds its batch, and does not add it again.
# Answers {first index taken, index after the last, frames that hold them}; nothing where the first
# frames are in MongoDB only, unless the caller has read them there.
POP = Script(
    _HEAD
    + _SEARCH
    + """
local head = read_head(KEYS[1])
if not head then return {0, 0, {}} end
if head.err then return head end
local taken_from = head.first
local taken_to = math.min(head.first + tonumber(ARGV[1]), head.count)
if taken_to <= taken_from then return {taken_from, taken_from, {}} end
if head.held > taken_from and ARGV[2] ~= string.format('%.0f', taken_from) then return nil end
local from = lower_bound(KEYS[1], function(start, stop) return stop > taken_from end)
local after = lower_bound(KEYS[1], function(start) return start >= taken_to end)
local frames = redis.call('LRANGE', KEYS[1], from, after - 1)
head.first, head.revision = taken_to, head.revision + 1
local forget_before = tonumber(redis.call('TIME')[1]) - 600
local keep_from = lower_bound(KEYS[1], function(start, stop, t_first, t_last)
  return stop > taken_to or t_last > forget_before
end)
redis.call('LTRIM', KEYS[1], keep_from - 1, -1)
redis.call('LSET', KEYS[1], 0, pack_head(head))
redis.call('ZADD', KEYS[2], head.revision, KEYS[1])
return {taken_from, taken_to, frames}
"""
)

# KEYS: unbacked, epoch, then the logs. ARGV: the epoch in which they were read, then for each log:
# count, revision and time of birth (8 bytes) of what MongoDB holds now.
# Answers for each log 1; 0 where another log, or none, is there by now; -1 where less is there than
# was read, or where it was read in another epoch: MongoDB may hold what Redis has lost.
# May use more memory than the server has been given: only what is acknowledged can be let go of.
ACKNOWLEDGE = Script(
    "#!lua flags=allow-oom\n"
    + _HEAD
    + """
local is_same_epoch = redis.call('GET', KEYS[2]) == ARGV[1]
local answers = {}
for i = 3, #KEYS do
  local at = (i - 3) * 3 + 1
  local count, revision = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local born = struct.unpack('<d', ARGV[at + 3])
  local head = read_head(KEYS[i])
  if not is_same_epoch then
    answers[#answers + 1] = -1
  elseif not head or head.err or head.born ~= born then
    answers[#answers + 1] = 0
  elseif head.count < count or head.revision < revision then
    answers[#answers + 1] = -1
  else
    if count > head.acked then
      head.acked = count
      redis.call('LSET', KEYS[i], 0, pack_head(head))
    end
    local pending = redis.call('ZSCORE', KEYS[1], KEYS[i])
    if pending and tonumber(pending) <= revision then redis.call('ZREM', KEYS[1], KEYS[i]) end
    answers[#answers + 1] = 1
  end
end
return answers
"""
)

# KEYS: epoch, backup, coverage, deleted. ARGV: identity of a MongoDB, where it is, a new epoch, in
# which words the namespace is copied there by itself ('' = it is not).
# From now on this one acknowledges. In place of another one, it begins with nothing acknowledged:
# another epoch keeps the other from it, and `unsettled` stays until all logs are UNACKNOWLEDGED.
# What is deleted from now on is noted for that one, too, should it come back; what was noted for
# this one, it has to forget now.
# Answers {epoch, '1' where that is to be done, where the other one is ('' = none)}.
ADOPT = Script(
    "#!lua flags=allow-oom\n"
    """
local before, at = redis.call('HGET', KEYS[2], 'mongo'), redis.call('HGET', KEYS[2], 'mongo_at')
if redis.call('HGET', KEYS[2], 'to') == ARGV[4] then
  redis.call('HSET', KEYS[2], 'to_id', ARGV[1])
end
local is_other = before and before ~= ARGV[1]
redis.call('HSET', KEYS[2], 'mongo', ARGV[1], 'mongo_at', ARGV[2])
if is_other then
  redis.call('HSET', KEYS[2], 'unsettled', '1', 'former ' .. before, '1')
  redis.call('HDEL', KEYS[2], 'former ' .. ARGV[1])
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('DEL', KEYS[3])
  local noted = KEYS[4] .. ':' .. ARGV[1]
  local deletions = redis.call('HGETALL', noted)
  for i = 1, #deletions, 2 do redis.call('HSET', KEYS[4], deletions[i], deletions[i + 1]) end
  redis.call('DEL', noted)
else
  redis.call('SET', KEYS[1], ARGV[3], 'NX')
end
local unsettled = redis.call('HGET', KEYS[2], 'unsettled') or ''
return {redis.call('GET', KEYS[1]), unsettled, is_other and at or ''}
"""
)

# KEYS: unbacked, epoch, then logs. ARGV: the epoch. Of these nothing is acknowledged any more.
UNACKNOWLEDGE = Script(
    "#!lua flags=allow-oom\n"
    + _HEAD
    + """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 3, #KEYS do
  local head = read_head(KEYS[i])
  if head and not head.err then
    head.acked = 0
    redis.call('LSET', KEYS[i], 0, pack_head(head))
    redis.call('ZADD', KEYS[1], head.revision, KEYS[i])
  end
end
return 1
"""
)

# KEYS: epoch, backup. ARGV: the epoch. All logs are unacknowledged.
ADOPTED = Script(
    "#!lua flags=allow-oom\n"
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('HDEL', KEYS[2], 'unsettled') end
return 1
"""
)

# KEYS: epoch, deletions. ARGV: an epoch, where there is none.
# Answers both: as long as they stay so, nothing that MongoDB holds was deleted.
STANDING = Script(
    """#!lua flags=allow-oom
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1]) .. ' ' .. (redis.call('GET', KEYS[2]) or '0')
"""
)

_STANDS = """
local function stands(epoch, deletions, standing)
  local now = redis.call('GET', epoch)
  return now and now .. ' ' .. (redis.call('GET', deletions) or '0') == standing
end
"""

# KEYS: log, summaries, runs, deletions, unbacked, epoch, backup. ARGV: how things stood before
# MongoDB was asked, summary field ('' = none), summary, run, run time, damaged head ('' = none),
# head, identity of the MongoDB, where it is, frames... Answers 1 when the log was put back, 0 when
# Redis already holds as much or more, or when anything was deleted meanwhile, or Redis emptied. A
# log with that damaged head is replaced if MongoDB has acknowledged all of it, and no frame goes
# further than what is put back; one that holds less, if its newest frame is among those that are
# put back. What comes from another MongoDB than the one that acknowledges is not acknowledged.
# Refused by a full server, as the following two are: that is what the first line is for, because
# DEL would let all that follows through.
RESTORE = Script(
    "#!lua\n"
    + _HEAD
    + _STANDS
    + """
if not stands(KEYS[6], KEYS[4], ARGV[1]) then return 0 end
local _, _, _, _, _, _, count, _, revision = struct.unpack('<c2BBI8I8I8I8I8I8', ARGV[7])
if ARGV[6] ~= '' then
  if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[6] then return 0 end
  if redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end
  local is_read, _, stop = pcall(frame_span, redis.call('LINDEX', KEYS[1], -1))
  if redis.call('LLEN', KEYS[1]) > 1 and is_read and stop > count then return 0 end
  redis.call('DEL', KEYS[1])
end
local head = read_head(KEYS[1])
if head and head.err then return head end
if head then
  if head.count > count or head.revision >= revision then return 0 end
  local newest, is_among = redis.call('LINDEX', KEYS[1], -1), redis.call('LLEN', KEYS[1]) == 1
  for i = 10, #ARGV do is_among = is_among or ARGV[i] == newest end
  if not is_among and redis.call('ZSCORE', KEYS[5], KEYS[1]) then return 0 end
  redis.call('DEL', KEYS[1])
end
redis.call('RPUSH', KEYS[1], ARGV[7])
for i = 10, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
if ARGV[8] ~= '' and not redis.call('HGET', KEYS[7], 'mongo') then
  redis.call('HSET', KEYS[7], 'mongo', ARGV[8], 'mongo_at', ARGV[9])
end
if redis.call('HGET', KEYS[7], 'mongo') ~= ARGV[8] then
  local back = read_head(KEYS[1])
  back.acked = 0
  redis.call('LSET', KEYS[1], 0, pack_head(back))
  redis.call('ZADD', KEYS[5], revision, KEYS[1])
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  redis.call('ZADD', KEYS[3], 'GT', ARGV[5], ARGV[4])
end
return 1
"""
)

# KEYS: log, unbacked, epoch. ARGV: the epoch, the head as it is, the head and the frames that take
# its place. Answers 1, or 0 where the log has changed.
REPLACE = Script(
    "#!lua\n"
    """
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
for i = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
local _, _, _, _, _, _, _, _, revision = struct.unpack('<c2BBI8I8I8I8I8I8', ARGV[3])
redis.call('ZADD', KEYS[2], revision, KEYS[1])
return 1
"""
)

# KEYS: log. ARGV: time of birth (8 bytes), index from which on Redis holds its frames, the same
# afterwards, frames that end there... Answers 1 when they were put in front of the others.
REFILL = Script(
    "#!lua\n"
    + _HEAD
    + """
local head = read_head(KEYS[1])
if head and head.err then return head end
local born = struct.unpack('<d', ARGV[1])
if not head or head.born ~= born or head.held ~= tonumber(ARGV[2]) then return 0 end
head.held = tonumber(ARGV[3])
redis.call('LPOP', KEYS[1])
for i = #ARGV, 4, -1 do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LPUSH', KEYS[1], pack_head(head))
return 1
"""
)

# KEYS: summaries of a run, runs, deletions, epoch. ARGV: how things stood before MongoDB was asked,
# run, run time, then for each episode: field, summary. Those that are listed stay as they are.
# Answers how many were not, or nothing when anything was deleted meanwhile, or Redis emptied.
LIST = Script(
    "#!lua\n"
    + _STANDS
    + """
if not stands(KEYS[4], KEYS[3], ARGV[1]) then return nil end
local added = 0
for i = 4, #ARGV, 2 do added = added + redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], 'GT', ARGV[3], ARGV[2])
return added
"""
)

# KEYS: summaries of a run. ARGV: field, damaged summary, the right one. Answers 1, or 0 where it is
# another by now.
MEND = Script(
    """#!lua
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
)

# KEYS: coverage. ARGV: what it has to be, what it is then. Answers 1, or 0 where it was another.
SETTLE = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
)

# KEYS: log, unbacked, summaries, deleted, deletions. ARGV: summary field ('' = none), time of birth
# (8 bytes, '' = as in the log). That MongoDB has to forget it is noted in the same step; whether it
# holds it, nobody can know here: a copy may be on its way.
# Answers the time of birth, or nothing where there was no log and none was named.
DELETE = Script(
    _HEAD
    + """
local head, born = read_head(KEYS[1]), ARGV[2]
if head and not head.err then born = struct.pack('<d', head.born) end
if ARGV[1] ~= '' then redis.call('HDEL', KEYS[3], ARGV[1]) end
redis.call('ZREM', KEYS[2], KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[5])
if born == '' then return nil end
redis.call('HSET', KEYS[4], identity(KEYS[1], struct.unpack('<d', born)), born)
return born
"""
)

# KEYS: deleted, backup. ARGV: identity of a log, its time of birth (8 bytes), identity of a MongoDB
# that has forgotten it. That counts if it is the one that acknowledges; others have to do it still.
FORGET = Script(
    "#!lua flags=allow-oom\n"
    """
local fields, mongo = redis.call('HGETALL', KEYS[2]), ARGV[3]
for i = 1, #fields, 2 do
  if fields[i] == 'mongo' then mongo = fields[i + 1] end
end
if mongo ~= ARGV[3] then
  redis.call('HDEL', KEYS[1] .. ':' .. ARGV[3], ARGV[1])
  return 0
end
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 7) == 'former ' then
    redis.call('HSET', KEYS[1] .. ':' .. string.sub(fields[i], 8), ARGV[1], ARGV[2])
  end
end
redis.call('HDEL', KEYS[1], ARGV[1])
return 1
"""
)

# KEYS: log, unbacked, epoch. ARGV: the epoch, its time of birth (8 bytes), its revision, and
# another birth, which it has from now on: it was begun again after a log of this birth had been
# deleted, and would have no copy.
# Answers 1, or 0 where it has changed.
BEAR_ANEW = Script(
    "#!lua flags=allow-oom\n"
    + _HEAD
    + """
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return 0 end
local head, born = read_head(KEYS[1]), struct.unpack('<d', ARGV[2])
if not head or head.err or head.born ~= born then return 0 end
if head.revision ~= tonumber(ARGV[3]) or head.held > 0 then return 0 end
head.born, head.acked, head.revision = struct.unpack('<d', ARGV[4]), 0, head.revision + 1
redis.call('LSET', KEYS[1], 0, pack_head(head))
redis.call('ZADD', KEYS[2], head.revision, KEYS[1])
return 1
"""
)

# KEYS: unbacked, backup, then the logs. ARGV: time (only frames before it may go), bytes (so many
# are enough), then for each log: time of birth (8 bytes), how many records MongoDB has just been
# seen to hold, and the revision at which an episode was over ('' = it goes on, or is none).
# Answers for each log {bytes let go of, time of its oldest frame that may go later ('' = there is
# none)}; none for the logs after enough was found.
#
# A writer that lost the answer to its newest append sends it again, and has to find it. So that
# stays where it is until it is a minute old; and of records, which several may write, all that
# another one has written. An episode that came in one append can go at once: sent again it is the
# same log from its beginning.
QUIET_S = 60
TRIM = Script(
    "#!lua flags=allow-oom\n"
    + _HEAD
    + f"local now, quiet_s = tonumber(redis.call('TIME')[1]), {QUIET_S}"
    + """
local unbacked, before, enough = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local freed = 0
local function writer_of(raw) return string.sub(raw, 17, 24) end
local function let_go(key, head, held, position)
  if held == head.count then
    freed = freed + redis.call('MEMORY', 'USAGE', key)
    if head.codec == 2 then return redis.call('DEL', key) end
  end
  head.held = held
  redis.call('LTRIM', key, position - 1, position == 1 and 0 or -1)
  redis.call('LSET', key, 0, pack_head(head))
end
local function trim_front(key, head, limit)
  local newest_by, position, size = writer_of(redis.call('LINDEX', key, -1)), 1, 0
  local start, stop, t_first, t_last
  local later = ''
  local function may_go()
    local raw = redis.call('LINDEX', key, position)
    start, stop, t_first, t_last = frame_span(raw)
    local is_fresh = t_last >= now - quiet_s and writer_of(raw) ~= newest_by
    if stop > limit or (head.codec ~= 2 and is_fresh) then return false end
    if t_last >= before or size >= enough - freed then
      later = string.format('%.17g', t_last)
      return false
    end
    size = size + #raw
    return true
  end
  while may_go() do position = position + 1 end
  if position > 1 then let_go(key, head, start, position) end
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
  if head.codec == 2 then is_over = is_over and tostring(head.revision) == over_at
  else is_over = is_quiet end
  if is_settled and is_over and head.t_last < before then
    let_go(key, head, head.count, 1)
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
"""
)

# KEYS: unbacked, coverage, summaries, then the logs of listed episodes. ARGV: their ids.
# Takes those out of the listing whose logs are in MongoDB only, and says that it is not complete.
# None where it is not known to have been complete.
UNLIST = Script(
    "#!lua flags=allow-oom\n"
    """
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
"""
)

# KEYS: any. ARGV: SET or HSET, and what else it takes. For the little that has to be written to a
# server whose memory is full, too: who lives, how far the backup is, what may be let go of.
PUT = Script(
    "#!lua flags=allow-oom\n"
    """
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
"""
)

# KEYS: holder, backup. ARGV: who wants it, for how long (ms), from whom it may be taken ('' = from
# nobody), where it copies to, where the namespace is to be copied to as far as it knows, '1' where
# this is new: then who copies elsewhere holds it no longer.
# Answers {who holds it now, '' = nobody; where the namespace is to be copied to}. A full server
# must not keep the backup from it.
HOLD = Script(
    "#!lua flags=allow-oom\n"
    """
local before = redis.call('HGET', KEYS[2], 'to')
local to = before or ARGV[5]
if ARGV[6] == '1' then to = ARGV[4] end
if to ~= before then
  redis.call('HSET', KEYS[2], 'to', to, 'to_id', '')
  if before then redis.call('DEL', KEYS[1]) end
end
local held = redis.call('GET', KEYS[1])
if to ~= ARGV[4] then
  if held == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return {'', to}
end
if held and held ~= ARGV[1] and held ~= ARGV[3] then return {held, to} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {ARGV[1], to}
"""
)

# KEYS: holder. ARGV: who lets go of it.
LET_GO = Script(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
)

ALL = (
    *(
        EPOCH,
        APPEND,
        READ,
        POP,
        ACKNOWLEDGE,
        ADOPT,
        UNACKNOWLEDGE,
        ADOPTED,
        STANDING,
        RESTORE,
        REPLACE,
        REFILL,
        LIST,
        MEND,
        SETTLE,
    ),
    *(DELETE, FORGET, BEAR_ANEW, TRIM, UNLIST, PUT, HOLD, LET_GO),
)
