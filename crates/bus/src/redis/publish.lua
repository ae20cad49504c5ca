-- Appends a batch to the histories and publishes it, or does neither.
--
-- KEYS 1  head
--      2… the stream of each slice's topic
-- ARGV 1  channel          6  at
--      2  feed             7  the publisher's clock, ms
--      3  epoch            8  bytes that a history keeps
--      4  first            9  ms that a history keeps
--      5  last            10  the batch's head in wire form
--      11… for each slice: topic, its last offset, its bytes
--
-- Offsets and epochs are below 2^53, so Lua compares them exactly as numbers; what is stored is
-- the text that was given.

local MOST_TRIMMED = 16        -- entries a topic and publish, so that no call takes long
local OUTLIVES_MS = 60000      -- a history's key expires this long after its last entry may go

local head, channel = KEYS[1], ARGV[1]

-- 1. Checks, before the first write.

local held = redis.call('HMGET', head, 'feed', 'epoch', 'base', 'last')
if not held[1] then
  if redis.call('EXISTS', head) == 1 then
    return redis.error_reply('MALFORMED head without a feed')
  end
  return { 'none' }
end
local held_epoch, held_last = tonumber(held[2]), tonumber(held[4])
if not held_epoch or not held_last or not tonumber(held[3]) then
  return redis.error_reply('MALFORMED head without epoch, base or last')
end
if held[1] ~= ARGV[2] or held_epoch ~= tonumber(ARGV[3]) then
  return { 'conflict', held[1], held[2], held[4] }
end
if held_last + 1 ~= tonumber(ARGV[4]) then
  if held_last >= tonumber(ARGV[5]) then
    return { 'already' }
  end
  return { 'behind', held[4] }
end

local slices = {}
for i = 2, #KEYS do
  local at = 11 + (i - 2) * 3
  local slice = { key = KEYS[i], topic = ARGV[at], last = ARGV[at + 1], bytes = ARGV[at + 2] }
  local kind = redis.call('TYPE', slice.key).ok
  if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE a history is a ' .. kind .. ': ' .. slice.key)
  end
  local known = redis.call('HMGET', head, 't:' .. slice.topic, 'b:' .. slice.topic)
  slice.previous = known[1] or held[3]
  -- The topic's first slice since the head began: a stream is of before that, and says nothing
  -- about what came between. Unless it ends after the base: then the head lost the topic's tail.
  slice.stale = kind == 'stream' and not known[1]
  if slice.stale then
    local id = (redis.call('XREVRANGE', slice.key, held[4], '-', 'COUNT', 1)[1] or { '0-0' })[1]
    local tail = string.match(id, '^%d+')
    if tonumber(tail) > tonumber(held[3]) then
      slice.previous = tail
    end
  end
  slice.kept = #slice.bytes
  if kind == 'stream' and not slice.stale then
    slice.kept = slice.kept + (tonumber(known[2]) or 0)
  end
  slices[#slices + 1] = slice
end

-- 2. Writes. The first decides whether Redis takes them at all (memory, disk, replicas); after it
-- none is refused for such a reason. Tails go before entries: an entry that is missing for
-- whatever reason is then seen by the chain.

redis.call('HSET', head, 'last', ARGV[5], 'at', ARGV[6])
for _, slice in ipairs(slices) do
  redis.call('HSET', head, 't:' .. slice.topic, slice.last, 'b:' .. slice.topic, slice.kept)
end

local now, keep_bytes, keep_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
for _, slice in ipairs(slices) do
  if slice.stale then
    redis.call('DEL', slice.key)
  end
  local entry = { 'XADD', slice.key, slice.last .. '-0', 'p', slice.previous, 'a', ARGV[7], 's', slice.bytes }
  if redis.pcall(unpack(entry)).err then
    -- The stream ends at or after this entry, so somebody else wrote to it: begin it anew. Whoever
    -- needs what was there before learns from `p` that it is gone.
    redis.call('DEL', slice.key)
    redis.call(unpack(entry))
    slice.kept = #slice.bytes
  end

  -- Trim by what the entries say, oldest first, as the memory bus does: one that is larger than
  -- the limit goes at once, and the history begins after it.
  local kept = slice.kept
  for _ = 1, MOST_TRIMMED do
    local oldest = redis.call('XRANGE', slice.key, '-', '+', 'COUNT', 1)[1]
    if not oldest then
      kept = 0
      break
    end
    local fields = oldest[2]
    if kept <= keep_bytes and (tonumber(fields[4]) or 0) >= now - keep_ms then
      break
    end
    redis.call('XDEL', slice.key, oldest[1])
    kept = kept - #(fields[6] or '')
  end
  if kept ~= slice.kept then
    redis.call('HSET', head, 'b:' .. slice.topic, math.max(kept, 0))
  end
  redis.call('PEXPIRE', slice.key, keep_ms + OUTLIVES_MS)
end

-- 3. One message for all topics keeps the order across them.

local wire = { ARGV[10] }
for i, slice in ipairs(slices) do
  wire[i + 1] = slice.bytes
end
redis.call('PUBLISH', channel, table.concat(wire))
return { 'applied' }
