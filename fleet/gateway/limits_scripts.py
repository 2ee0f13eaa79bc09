"""`fleet.limits` in Lua, for accounts in Redis: each script is one atomic step for all requests of
one key that came together.

An account is a string (`KEYS[1]`, as `fleet.limits.STORED`) and a sorted set of leases (`KEYS[2]`: members
`id:tokens:window`, scored by their end). Redis's own clock is the only one. Numbers that are absent
come as empty strings.
"""

from __future__ import annotations

from struct import Struct

from fleet.limits import STORED, Bound

BOUNDS: tuple[Bound, ...] = ("", "concurrent", "requests", "tokens", "budget")
VERDICT = Struct("<Bddddd")
KEEP_S = 32 * 86_400  # an account that nothing happens to for so long is forgotten; longer than any period

_PRELUDE = f"""
local keep = {KEEP_S}
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local stored = redis.call('GET', KEYS[1])
local born, requests, tokens, window, spent = now, 0, 0, 0, 0
if stored then born, requests, tokens, window, spent = struct.unpack('{STORED.format}', stored) end

local function roll(to)
  if to > window then window, spent = to, 0 end
end

local function charge(at, amount)
  if at == window then spent = spent + amount end
end

local function parts(member)
  local amount, start = string.match(member, ':(%d+):(%d+)$')
  return tonumber(amount), tonumber(start)
end

local function save()
  local account = struct.pack('{STORED.format}', born, requests, tokens, window, spent)
  redis.call('SET', KEYS[1], account, 'EX', keep)
end
"""

# ARGV: concurrent, requests a minute, tokens a minute, budget; lease in seconds; members...
# Returns for each a `VERDICT`: refused by (its place in `BOUNDS`), wait, now, end, seconds until either
# bucket is empty
RESERVE = (
    _PRELUDE
    + """
local concurrent, budget = tonumber(ARGV[1]), tonumber(ARGV[4])
local request_limit, token_limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local verdicts = {}

local open = redis.call('ZCARD', KEYS[2])
for _, dead in ipairs(open > 0 and redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now) or {}) do
  local reserved, at = parts(dead)
  charge(at, -reserved)
  open = open - redis.call('ZREM', KEYS[2], dead)
end

local function advance(arrival, limit, cost)
  if not limit then return arrival, 0 end
  local after = math.max(arrival, now) + cost * 60 / limit
  return after, after - now - 60
end

for i = 6, #ARGV do
  local member = ARGV[i]
  local amount, start = parts(member)
  roll(start)
  local new_requests, request_wait = advance(requests, request_limit, 1)
  local new_tokens, token_wait = advance(tokens, token_limit, amount)
  local refused, wait = 0, 0
  if concurrent and open >= concurrent then
    refused, wait = 1, 1
  elseif request_wait > 0 then
    refused, wait = 2, request_wait
  elseif token_wait > 0 then
    refused, wait = 3, token_wait
  elseif budget and spent + amount > budget then
    refused = 4
  else
    requests, tokens = new_requests, new_tokens
    charge(start, amount)
    open = open + redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), member)
  end
  verdicts[#verdicts + 1] = struct.pack('<Bddddd', refused, wait, now, tokens,
                                        math.max(0, requests - now), math.max(0, tokens - now))
end
save()
redis.call('EXPIRE', KEYS[2], keep)
return verdicts
"""
)

# ARGV: tokens a minute; then for each: member, at, end, tokens used, 1 when this may be the second time
SETTLE = (
    _PRELUDE
    + """
local limit = tonumber(ARGV[1])
for i = 2, #ARGV, 5 do
  local member, used = ARGV[i], tonumber(ARGV[i + 3])
  local amount, start = parts(member)
  roll(start)
  if redis.call('ZREM', KEYS[2], member) == 1 then
    charge(start, used - amount)
    if limit and tonumber(ARGV[i + 1]) >= born then
      local excess = (amount - used) * 60 / limit
      if excess < 0 then
        tokens = math.max(tokens, now) - excess
      else
        tokens = tokens - math.min(excess, math.max(0, tonumber(ARGV[i + 2]) - now))
      end
    end
  elseif ARGV[i + 4] ~= '1' then
    charge(start, used)
  end
end
save()
"""
)

# ARGV: lease in seconds, members...
RENEW = (
    _PRELUDE
    + """
for i = 2, #ARGV do
  local amount, start = parts(ARGV[i])
  roll(start)
  if redis.call('ZADD', KEYS[2], now + tonumber(ARGV[1]), ARGV[i]) == 1 then charge(start, amount) end
end
save()
redis.call('EXPIRE', KEYS[2], keep)
"""
)
