-- Claim an idempotency key for one request, or tell what became of the first. See idempotency.py for the record's states.
--
-- A claim ends by itself after a moment: nothing is sent to a service under it. Whoever claims twice (a command may be
-- executed twice) still has it.
--
-- KEYS[1] the record. ARGV: tag of the request, owner, how long a claim lasts (ms).
-- Returns: the verdict, and what was kept ("" when that is no answer).
local tag, owner, state, value, lease = unpack(redis.call('HMGET', KEYS[1], 'tag', 'owner', 'state', 'value', 'lease'))
if not tag then
  redis.call('HSET', KEYS[1], 'tag', ARGV[1], 'owner', ARGV[2], 'state', 'claimed')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'ours', '' }
end
if tag ~= ARGV[1] then
  return { 'mismatch', '' }
end
if state == 'claimed' or state == 'sent' then
  if owner == ARGV[2] then
    return { 'ours', '' }
  end
  local time = redis.call('TIME')
  if state == 'sent' and tonumber(lease) <= time[1] * 1000 + math.floor(time[2] / 1000) then
    return { 'unknown', '' }
  end
  return { 'under-way', '' }
end
return { state, value or '' }
