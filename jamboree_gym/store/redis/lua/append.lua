-- include: layout, search
-- Appends to many logs. A log's error does not keep the others from being appended to.
--
-- KEYS: unbacked, runs, feed, coverage, epoch, deleted, carried_out, then for each append: log,
--   summaries.
-- ARGV: '1' where MongoDB can be asked, the epoch that the sender knows, then for each append:
--   codec, note ('' keeps the old one), summary field ('' = none), summary, run ('' = none), time
--   of the run,
--   records in the log after it, '1' where an earlier try may have been stored ('before' where that
--   may have been before Redis was emptied, '?' where that was asked, and MongoDB did not answer),
--   the epoch in which MongoDB was asked for the log, number of batches, batches...
-- Answer: for each append {k, count, t_last, first, born, held}, or its error. The first k batches
-- are in the log, from now or from an earlier try. Batch k + 1 does not continue the log: another
-- writer was there first, or it is stored already, and was evicted. `first`, `born` and `held` are
-- missing where there is no log. After them, 1 where somebody follows (there is a feed), else 0.
--
-- In another epoch nothing is done, and the answer is that epoch ('' = there is none yet): what the
-- sender remembers of the server is not true any more.
--
-- An append that is sent again after a lost answer changes nothing. Yet it writes the head again,
-- because WAITAOF waits only for what its own connection has written. The listings are written
-- first: if a foreign value lies under their names, the error leaves the log as it was. Note and
-- listing describe the log after the last batch. Where that batch is refused, or others are behind
-- it, they are not written. Nor are they if it is the first try, and stores nothing: then it comes
-- late, and a later try was first, which may have had a newer note.
--
-- A batch that was moved behind records that only MongoDB held (replace.lua) is recognized by all
-- but its index.
--
-- A log that does not exist is begun by its first batch only, else the answer is {0, 0, -inf}. That
-- is also the answer where MongoDB has to be asked first: for records, if Redis was emptied and it
-- is not known yet what MongoDB holds; for a repeated try, because the log may have been deleted
-- after the first. Where that deletion is noted here, or was carried out a while ago, the answer is
-- {-1, 0, -inf}. A log that is begun again on purpose gets another birth than the deleted one.
--
-- Records that may have been stored before Redis was emptied are not stored either, also if others
-- have begun their log anew: MongoDB may have them.
--
-- MongoDB may hold an episode as an earlier try has stored it, although Redis was emptied since, and
-- may not have answered. So an episode that is begun then has a revision that no earlier try had:
-- the time.
--
-- The feed names each listed log that has changed. Readers who follow create the feed. It keeps its
-- newest `feed_entries` entries, and some more, because trimming it roughly is cheaper.

local unbacked, runs, feed, deleted, carried_out = KEYS[1], KEYS[2], KEYS[3], KEYS[6], KEYS[7]
local epoch = redis.call('GET', KEYS[5])
if epoch ~= ARGV[2] then return epoch or '' end
local moved_back = 256 -- so many batches are compared with one that may have been moved
local can_ask = ARGV[1] == '1'
local function is_stored(key, raw, start)
  local position = lower_bound(key, function(stored_start) return stored_start >= start end)
  return redis.call('LINDEX', key, position) == raw
end
local function was_moved(key, raw)
  local newest = redis.call('LLEN', key) - 1
  for position = newest, math.max(1, newest - moved_back + 1), -1 do
    if has_same_records(redis.call('LINDEX', key, position), raw) then return true end
  end
  return false
end
local function was_deleted(key, born)
  local stored = identity(key, born)
  return redis.call('HGET', deleted, stored) or redis.call('ZSCORE', carried_out, stored)
end
local function append(key, summaries, at)
  local note, field, after = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 6])
  local may_predate, was_asked_for = ARGV[at + 7] == 'before', ARGV[at + 8] == epoch
  local is_repeated = may_predate or ARGV[at + 7] == '1'
  local count_of_batches = tonumber(ARGV[at + 9])
  local head, born = read_head(key), nil
  if head and head.err then return head end
  local fresh = not head
  if fresh then
    if count_of_batches > 0 then
      local _, _, t_first = batch_span(ARGV[at + 10])
      born = t_first
      while was_deleted(key, born) do
        if is_repeated then return {-1, 0, '-inf'} end
        born = born + math.max(2 ^ -20, math.abs(born) * 2 ^ -51)
      end
    end
    if can_ask and not was_asked_for then
      local is_covered = ARGV[at] ~= '1'
      if not is_covered then -- while somebody restores the heads, nobody knows what is missing
        local coverage = redis.call('GET', KEYS[4])
        is_covered = coverage == 'all' or coverage == 'part'
      end
      if is_repeated or not is_covered then return {0, 0, '-inf'} end
    end
    head = {codec = tonumber(ARGV[at]), first = 0, held = 0, newest = 0, count = 0, acked = 0,
            revision = 0, t_last = -math.huge, born = -math.huge, note = ''}
    if head.codec == CODEC_STEPS and ARGV[at + 7] == '?' then
      head.revision = tonumber(redis.call('TIME')[1])
    end
  end
  local accepted, stored, begins_at = {}, 0, head.count
  for i = at + 10, at + 9 + count_of_batches do
    local start, stop, t_first, t_last = batch_span(ARGV[i])
    if start == head.count and t_first > head.t_last and not may_predate then
      if start == 0 then head.born = born end
      accepted[#accepted + 1] = ARGV[i]
      head.count, head.t_last = stop, t_last
    elseif #accepted > 0 or not (is_stored(key, ARGV[i], start)
      or (is_repeated and head.codec == CODEC_RECORDS and was_moved(key, ARGV[i]))) then
      break
    end
    stored = stored + 1
  end
  if fresh and #accepted == 0 then return {0, 0, '-inf'} end
  local is_first_try = ARGV[at + 7] == '' and ARGV[at + 8] == ''
  local is_late = is_first_try and count_of_batches > 0 and #accepted == 0
  if stored < count_of_batches or head.count ~= after or is_late then
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
  elseif ARGV[at + 2] == '' and ARGV[at + 4] ~= '' and is_change then
    redis.call('ZADD', runs, 'GT', ARGV[at + 5], ARGV[at + 4])
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
  return {stored, head.count, string.format('%.17g', head.t_last), head.first,
          string.format('%.17g', head.born), head.held}
end
local answers, at = {}, 3
for i = 8, #KEYS, 2 do
  local worked, answer = pcall(append, KEYS[i], KEYS[i + 1], at)
  if not worked then answer = {err = type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[#answers + 1] = answer
  at = at + 10 + tonumber(ARGV[at + 9])
end
answers[#answers + 1] = redis.call('EXISTS', feed)
return answers
