-- Reads a piece of a topic's history, with what the head says of it, from one moment.
--
-- KEYS 1  head
--      2  the topic's stream
-- ARGV 1  topic
--      2  the offset to begin with
--      3  bytes to read, about: entries are whole, so one at least is read
--
-- A script, because XRANGE counts entries and not bytes: they have between 30 bytes and several MiB.

local MOST_AT_ONCE = 64

local head = redis.call('HMGET', KEYS[1], 'feed', 'epoch', 'base', 'last', 't:' .. ARGV[1])
local entries, bytes, count = {}, 0, 1
local from, most = ARGV[2], tonumber(ARGV[3])
while true do
  local page = redis.call('XRANGE', KEYS[2], from .. '-0', '+', 'COUNT', count)
  for i, entry in ipairs(page) do
    if bytes >= most then
      return { head, entries, 0 }
    end
    entries[#entries + 1] = entry
    bytes = bytes + #(entry[2][6] or '')
  end
  if #page < count then
    return { head, entries, 1 }
  end
  -- Offsets are below 2^53, so this is exact.
  from = string.format('%.0f', tonumber(string.match(page[#page][1], '^%d+')) + 1)
  count = math.min(count * 2, MOST_AT_ONCE)
end
