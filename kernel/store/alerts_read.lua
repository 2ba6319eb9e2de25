-- Reads on in a tenant's stream of alerts, or says that this is not possible.
--
-- KEYS: stream, alert ids seen, meta (see alerts_record.lua). ARGV: generation and id of the last alert that is known
-- ('': none, only where the stream stands is wanted; generation '*': all that is kept), most alerts wanted, time the meta
-- hash is kept (ms).
-- Returns: generation, id of the newest alert, verdict ('ok'; 'too-old': alerts after the known one are gone; 'unknown':
-- the known one is of another generation, or never was), and the alerts, the oldest kept first unless the verdict is ok.
local meta = redis.call('HMGET', KEYS[3], 'gen', 'last', 'floor')
local gen, last, floor = meta[1], meta[2], meta[3]
if not gen then
  local time = redis.call('TIME')
  gen, last, floor = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), '0-0', '0-0'
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('HSET', KEYS[3], 'gen', gen, 'last', last, 'floor', floor)
elseif floor ~= last and redis.call('EXISTS', KEYS[1]) == 0 then
  floor = last
end
redis.call('PEXPIRE', KEYS[3], ARGV[4])
if ARGV[1] == '' then
  return { gen, last, 'ok', {} }
end

local function before(a, b)
  local ams, aseq = string.match(a, '^(%d+)-(%d+)$')
  local bms, bseq = string.match(b, '^(%d+)-(%d+)$')
  ams, aseq, bms, bseq = tonumber(ams), tonumber(aseq), tonumber(bms), tonumber(bseq)
  return ams < bms or (ams == bms and aseq < bseq)
end

local from, verdict = '-', 'ok'
if ARGV[1] ~= '*' then
  if ARGV[1] ~= gen or before(last, ARGV[2]) then
    verdict = 'unknown'
  elseif before(ARGV[2], floor) then
    verdict = 'too-old'
  else
    from = '(' .. ARGV[2]
  end
end
return { gen, last, verdict, redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[3]) }
