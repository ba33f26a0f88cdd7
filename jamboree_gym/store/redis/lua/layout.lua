-- How heads and batches are laid out: what encoding/batch_format.py says in Python. Indices and counts
-- are exact below 2^53, because Lua counts in float64.

local HEAD_LAYOUT = '<c2BBI8I8I8I8I8I8dd'
local HEAD_MAGIC, HEAD_VERSION, HEAD_BYTES = 'JH', 2, 68
local CODEC_RECORDS, CODEC_STEPS = 1, 2

local function head_check(fixed) return string.sub(redis.sha1hex(fixed), 1, 8) end

-- Fields of a head that is known to be whole.
local function unpack_head(raw)
  local _, _, codec, first, held, newest, count, acked, revision, t_last, born =
    struct.unpack(HEAD_LAYOUT, raw)
  if acked > count then acked = 0 end
  return {codec = codec, first = first, held = held, newest = newest, count = count, acked = acked,
          revision = revision, t_last = t_last, born = born, note = string.sub(raw, HEAD_BYTES + 9)}
end

-- The head of a log; nil where there is no such log; an error with `err` where it is damaged.
local function read_head(key)
  local raw = redis.call('LINDEX', key, 0)
  if not raw then return nil end
  if #raw < 3 or string.sub(raw, 1, 2) ~= HEAD_MAGIC then
    return redis.error_reply('JAMBOREEFORMAT there is no head in ' .. key)
  end
  local version = string.byte(raw, 3)
  if version == 1 then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' was written by an older '
                             .. 'release; bring the store up to date: jamboree-gym migrate')
  end
  if version ~= HEAD_VERSION then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' is of format '
                             .. version .. ', which this release does not know')
  end
  local check = string.sub(raw, HEAD_BYTES + 1, HEAD_BYTES + 8)
  if #check < 8 or head_check(string.sub(raw, 1, HEAD_BYTES)) ~= check then
    return redis.error_reply('JAMBOREEFORMAT the head of ' .. key .. ' is damaged')
  end
  return unpack_head(raw)
end

local function pack_head(head)
  local fixed = struct.pack(HEAD_LAYOUT, HEAD_MAGIC, HEAD_VERSION, head.codec, head.first,
                            head.held, head.newest, head.count, head.acked, head.revision,
                            head.t_last, head.born)
  return fixed .. head_check(fixed) .. head.note
end

-- What tells a log from others of the same key (`identity` in store/log.py).
local function identity(key, born)
  local function hexadecimal(byte) return string.format('%02x', string.byte(byte)) end
  return key .. '#' .. string.gsub(struct.pack('>d', born), '.', hexadecimal)
end

-- Index of a batch's first record, index after its last, and the times of these two.
local function batch_span(raw)
  local count, start, _, t_first, t_last = struct.unpack('<I4I8c8dd', raw, 5)
  return start, start + count, t_first, t_last
end

local function batch_writer(raw) return string.sub(raw, 17, 24) end

-- Whether two batches differ in their index, and in the checksum that follows from it, at most.
local function has_same_records(raw, other)
  return string.sub(raw, 5, 8) == string.sub(other, 5, 8)
    and string.sub(raw, 17, 40) == string.sub(other, 17, 40)
    and string.sub(raw, 45) == string.sub(other, 45)
end
