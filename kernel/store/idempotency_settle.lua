-- Move an idempotency key's record on, by its owner alone. See idempotency.py for its states.
--
-- A record that is not there any more (the store lost it while the request was under way) is made anew, unless it was never
-- more than a claim. What is settled stays so: a renewal that comes late changes nothing.
--
-- KEYS[1] the record. ARGV: state ("gone": none), owner, tag, value (of "sent": whether it is a renewal), lease (ms), how long
-- the record is kept (ms).
-- Returns 1 when the record now is as asked.
local owner, state = unpack(redis.call('HMGET', KEYS[1], 'owner', 'state'))
local to = ARGV[1]
if owner and owner ~= ARGV[2] then
  return 0
end
if owner and state ~= 'claimed' and state ~= 'sent' then
  return state == to and 1 or 0
end
if to == 'gone' then
  redis.call('DEL', KEYS[1])
  return 1
end
if not owner and to == 'sent' and ARGV[4] == '' then
  return 0
end
redis.call('HSET', KEYS[1], 'tag', ARGV[3], 'owner', ARGV[2], 'state', to)
if to == 'sent' then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5]))
else
  redis.call('HSET', KEYS[1], 'value', ARGV[4])
  redis.call('HDEL', KEYS[1], 'lease')
end
-- While it is under way it stays, however short answers are kept.
redis.call('PEXPIRE', KEYS[1], to == 'sent' and ARGV[5] + ARGV[6] or ARGV[6])
return 1
