-- A worker's heartbeat. KEYS[1] the sorted set of live workers; ARGV: worker, time to live (us). Returns how many live.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local life = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - life)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + life, '+inf')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000))
return redis.call('ZCARD', KEYS[1])
