-- Makes a feed the source's current one, and tells all that subscribe.
--
-- KEYS 1  head
-- ARGV 1  channel          5  at
--      2  feed             6  catalogue (JSON)
--      3  epoch            7  watermark in wire form
--      4  after            8  what the keys of histories begin with
--                          9  1: a bus that ends before `after` begins there anew
--                             2: a bus that does not hold the feed is left as it is
--
-- Offsets and epochs are below 2^53, so Lua compares them exactly as numbers; what is stored is
-- the text that was given.

local head, channel, feed, after = KEYS[1], ARGV[1], ARGV[2], ARGV[4]

-- Without these rights a publish would fail half-way: after the head, before the channel. Better
-- not to begin at all. (Redis 6 cannot be asked.)
if redis.acl_check_cmd then
  local stream = ARGV[8] .. feed .. ':x'
  for _, command in ipairs({
    { 'HSET', head, 'last', '0' },
    { 'UNLINK', stream },
    { 'DEL', stream },
    { 'XADD', stream, '1-0', 'p', '0' },
    { 'XRANGE', stream, '-', '+' },
    { 'XREVRANGE', stream, '+', '-' },
    { 'XDEL', stream, '1-0' },
    { 'PEXPIRE', stream, '1' },
    { 'TYPE', stream },
    { 'PUBLISH', channel, '' },
  }) do
    if not redis.acl_check_cmd(unpack(command)) then
      return redis.error_reply('NOPERM the publisher has no right to ' .. command[1] .. ' ' .. command[2])
    end
  end
end

local held = redis.call('HMGET', head, 'feed', 'epoch', 'last')
if held[1] then
  local held_epoch, held_last, epoch = tonumber(held[2]), tonumber(held[3]), tonumber(ARGV[3])
  if not held_epoch or not held_last then
    return redis.error_reply('MALFORMED head without epoch or last')
  end
  if held_epoch > epoch or (held_epoch == epoch and held[1] ~= feed) then
    return { 'conflict', held[1], held[2], held[3] }
  end
  local further_on = ARGV[9] == '1' and held_last < tonumber(after)
  if held[1] == feed and not further_on then
    if held_last ~= tonumber(after) then
      return { 'behind', held[3] }
    end
    redis.call('HSET', head, 'epoch', ARGV[3], 'at', ARGV[5], 'catalogue', ARGV[6])
    redis.call('PUBLISH', channel, ARGV[7])
    return { 'applied' }
  end
elseif redis.call('EXISTS', head) == 1 then
  return redis.error_reply('MALFORMED head without a feed')
end
if ARGV[9] == '2' then
  return { 'none' }
end

-- Nobody reads the histories of the feed before any more; they would only expire.
if held[1] then
  for _, field in ipairs(redis.call('HKEYS', head)) do
    if string.sub(field, 1, 2) == 't:' then
      redis.call('UNLINK', ARGV[8] .. held[1] .. ':' .. string.sub(field, 3))
    end
  end
  redis.call('DEL', head)
end
redis.call('HSET', head, 'feed', feed, 'epoch', ARGV[3], 'base', after, 'last', after, 'at', ARGV[5],
  'catalogue', ARGV[6])
redis.call('PUBLISH', channel, ARGV[7])
return { 'applied' }
