-- One token bucket, shared by the workers of a fleet through leases. Called for every contact of a worker with a bucket.
--
-- The hash holds `tokens` (what nobody has), `stamp` (when they were last refilled, microseconds of this server's clock)
-- and a field per worker with its lease: series, tokens granted, used and returned since the series began, and expiry.
-- A lease holds granted - used - returned tokens.
--
-- Never over the limit: tokens + all that leases hold <= capacity, always, since a refill stops there; what a lease holds
-- is at least what its worker can still spend; a lease that expires counts as spent, and its worker stops before. So
-- there is never more to spend than in one bucket from which every request takes its token itself.
--
-- Totals instead of differences make a call safe to repeat: whatever a lost call did is known at the next one.
--
-- A few tokens of a client far from its limit are lent for longer: nobody misses them, and a client that comes now and then
-- need not have its lease returned and taken again each time.
--
-- KEYS[1] the bucket. ARGV: capacity, window (us), worker, series, used, returned, wanted, live workers,
-- lease time (us), tokens of an unknown bucket, most tokens there may be now (-1: no matter), microseconds since the worker
-- last used one of its tokens, how many of those granted now are used at once, most tokens lent for longer, and for how
-- long (us).
-- Returns: granted in all, tokens left, microseconds until there is one (0: there is), used in all before this call as far
-- as is known here, how many of those granted now count as used, and the lease time.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local capacity, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local worker, series = ARGV[3], ARGV[4]
local used, returned, wanted = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local workers, lease = tonumber(ARGV[8]), tonumber(ARGV[9])
local tokens, stamp, held = tonumber(ARGV[10]), now, 0
local ceiling, age = tonumber(ARGV[11]), tonumber(ARGV[12])
local waiting, few, longer = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local latest = 0

-- Without an entry (new, or expired just now) all that the worker ever had of this lease is gone.
local mine = { granted = used + returned, used = used, returned = returned }
local over = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'tokens' then
    tokens = tonumber(value)
  elseif name == 'stamp' then
    stamp = tonumber(value)
  else
    local its, g, u, r, expiry = string.match(value, '^(%S+) (%d+) (%d+) (%d+) (%d+)$')
    local holds = g - u - r
    held = held + holds
    expiry = tonumber(expiry)
    -- An expiry beyond a whole lease time: the clock was set back.
    local alive = expiry > now and expiry <= now + longer
    if name == worker and its == series and alive then
      mine = { granted = tonumber(g), used = tonumber(u), returned = tonumber(r) }
    elseif name == worker or not alive then
      over[#over + 1] = { name = name, holds = holds, expiry = math.min(expiry, now) }
    else
      latest = math.max(latest, expiry)
    end
  end
end

local function refill(moment)
  tokens = math.max(0, math.min(tokens + math.max(0, moment - stamp) * capacity / window, capacity - held))
  stamp = moment
end

-- What an expired lease held was spent at its expiry at the latest: only from then on may it be refilled.
table.sort(over, function(a, b) return a.expiry < b.expiry end)
for _, lost in ipairs(over) do
  refill(math.max(lost.expiry, math.min(stamp, now)))
  held = held - lost.holds
  redis.call('HDEL', KEYS[1], lost.name)
end
-- What a worker reports as used was used `age` ago at the latest: from then on it may be refilled, and not from the report.
refill(math.max(stamp, now - age))
local reported = math.max(mine.used, math.min(used, mine.granted - mine.returned))
held = held - (reported - mine.used)
mine.used = reported
refill(now)

local back = math.min(returned - mine.returned, mine.granted - mine.used - mine.returned)
if back > 0 then
  mine.returned = mine.returned + back
  tokens = tokens + back
end
if ceiling >= 0 then
  tokens = math.min(tokens, ceiling)
end
-- A small share of what is left, and one by one at the end: little lies unused while others are refused.
local known, spent = mine.used, 0
if wanted > 0 and tokens >= 1 then
  local grant = math.min(wanted, math.max(1, math.floor(tokens / (8 * workers))))
  tokens = tokens - grant
  spent = math.min(grant, waiting)
  mine.granted = mine.granted + grant
  mine.used = mine.used + spent
end
local holds = mine.granted - mine.used - mine.returned
if holds <= few and tokens * 2 >= capacity then
  lease = longer
end
if holds > 0 then
  latest = math.max(latest, now + lease)
  local entry = string.format('%s %.0f %.0f %.0f %.0f', series, mine.granted, mine.used, mine.returned, now + lease)
  redis.call('HSET', KEYS[1], worker, entry)
else
  redis.call('HDEL', KEYS[1], worker)
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'stamp', string.format('%.0f', now))
-- A full bucket without leases needs no key.
local full = (capacity - tokens) * window / capacity
redis.call('PEXPIRE', KEYS[1], math.ceil((full + math.max(latest - now, 0)) / 1000) + 1000)

local wait = 0
if tokens < 1 then
  wait = math.ceil((1 - tokens) * window / capacity)
end
return { mine.granted, math.floor(tokens), wait, known, spent, lease }
