-- Records alerts of one tenant, each once, and tells every worker in the order of the stream.
--
-- The meta hash outlives the stream: `gen` names the stream's life (another one after the store lost its data), `last` is
-- the newest id ever given in it, and everything after `floor`, the newest id that is gone, is still kept. Ids are ours and
-- not XADD's `*`, so that they grow although the clock may be set back and the stream may expire.
--
-- KEYS: stream, alert ids seen (sorted set by time), meta. ARGV: channel, tenant, worker, most events kept, time they are
-- kept (ms), time the meta hash is kept (ms), then alert id and payload of each alert.
-- Returns 1 for each alert recorded, 0 for each that was before.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local channel, tenant, worker = ARGV[1], ARGV[2], ARGV[3]
local most, retention, life = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local meta = redis.call('HMGET', KEYS[3], 'gen', 'last', 'floor')
local gen, last, floor = meta[1], meta[2], meta[3]
if not gen then
  redis.call('DEL', KEYS[1], KEYS[2])
  gen, last, floor = string.format('%.0f', now), '0-0', '0-0'
elseif redis.call('EXISTS', KEYS[1]) == 0 then
  floor = last
end
local ms, seq = string.match(last, '^(%d+)-(%d+)$')
ms, seq = tonumber(ms), tonumber(seq)

local results = {}
local added = false
for i = 7, #ARGV, 2 do
  local key = ARGV[i]
  if redis.call('ZADD', KEYS[2], 'NX', now, key) == 0 then
    results[#results + 1] = 0
    -- Whoever else holds it may let go.
    redis.call('PUBLISH', channel, 'seen ' .. worker .. ' ' .. tenant .. '\n' .. key)
  else
    if now > ms then
      ms, seq = now, 0
    else
      seq = seq + 1
    end
    local id = string.format('%.0f-%.0f', ms, seq)
    redis.call('XADD', KEYS[1], id, 'e', ARGV[i + 1])
    local head = 'recorded ' .. worker .. ' ' .. tenant .. ' ' .. gen .. ' ' .. id .. ' ' .. last .. '\n'
    redis.call('PUBLISH', channel, head .. ARGV[i + 1])
    results[#results + 1] = 1
    last = id
    added = true
  end
end

if added then
  local oldest = string.format('%.0f', now - retention)
  -- All but the last of those that go, which `floor` names: whoever knows it has missed nothing.
  redis.call('XTRIM', KEYS[1], 'MAXLEN', most + 1)
  local over = redis.call('XLEN', KEYS[1]) > most and redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local old = redis.call('XREVRANGE', KEYS[1], '(' .. oldest .. '-0', '-', 'COUNT', 1)[1] or over
  if old then
    floor = old[1]
    redis.call('XTRIM', KEYS[1], 'MAXLEN', most)
    redis.call('XTRIM', KEYS[1], 'MINID', oldest)
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', oldest)
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(2 * most + 1))
  redis.call('HSET', KEYS[3], 'gen', gen, 'last', last, 'floor', floor)
  redis.call('PEXPIRE', KEYS[1], retention)
  redis.call('PEXPIRE', KEYS[2], retention)
  redis.call('PEXPIRE', KEYS[3], life)
end
return results
