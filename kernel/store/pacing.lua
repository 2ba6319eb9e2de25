-- A turn: one at a time, over all workers, and a pause after each. KEYS[1] hash: `free` when the next may begin (us of the
-- store's clock), `holder` who has the turn. ARGV: what to do, who, a time (us), the longest time `free` may lie ahead (us).
--   take   the time is how long the turn may be kept at most. {1, 0}: it is yours; {0, us to wait}; {2, us}: somebody has it
--   give   the time is the pause until the next turn
--   open   the time is the pause when the store knows nothing: one that was emptied has forgotten who asked a moment ago
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local state = redis.call('HMGET', KEYS[1], 'free', 'holder')
local free, holder = tonumber(state[1] or ''), state[2] or ''
local function set(at, who)
  redis.call('HSET', KEYS[1], 'free', string.format('%d', at), 'holder', who)
end

if ARGV[1] == 'open' then
  if not free then set(now + ARGV[3], '') end
  return {0, 0}
end
if ARGV[1] == 'give' then
  if holder == ARGV[2] then set(now + ARGV[3], '') end
  return {0, 0}
end
-- Sent twice when the connection broke before the reply.
if holder == ARGV[2] then return {1, 0} end
if not free then
  set(now + ARGV[5], '')
  return {0, tonumber(ARGV[5])}
end
-- A store whose clock was set back would keep everybody waiting.
if free - now > tonumber(ARGV[4]) then free = now + ARGV[4] set(free, '') end
if now >= free then
  set(now + ARGV[3], ARGV[2])
  return {1, 0}
end
return {holder == '' and 0 or 2, free - now}
