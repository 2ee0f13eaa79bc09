"""`fleet.key_limits` in Lua, for accounts in Redis.

Each script is one atomic step for all requests of one key that came together. An account is a string
(`KEYS[1]`, as `fleet.key_limits.STORED`) and a sorted set of leases (`KEYS[2]`: members
`id:slots:tokens:window`, scored by their end). Redis's clock is the only one. An absent number is an empty
string.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from ext.prefetch import FEW, LONGER, Grant
from fleet.key_limits import (
    BUSY_WAIT_S,
    MORE,
    PLENTY,
    SHARE,
    SHARE_OF_FEW,
    STORED,
    Admission,
    Bound,
    KeyLimits,
    Remainder,
)

Arguments = list[str | float]

_BOUNDS: tuple[Bound, ...] = ("", "concurrent", "requests", "tokens", "budget")
ADMISSION = Struct("<Bddddd")
PREFETCH = Struct(
    "<ddddddB"
)  # requests, slots, tokens, at, end, requests' end, whether it is next to nothing
_KEEP_S = 32 * 86_400  # an account is forgotten after this long without a step; longer than any period

_PRELUDE = f"""
local keep = {_KEEP_S}
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local stored = redis.call('GET', KEYS[1])
local born, requests, tokens, window, spent, open = now, 0, 0, 0, 0, 0
if stored then
  born, requests, tokens, window, spent, open = struct.unpack('{STORED.format}', stored)
else
  redis.call('DEL', KEYS[2])  -- an account and its leases are lost together
end

local function roll(to)
  if to > window then window, spent = to, 0 end
end

local function charge(at, amount)
  if at == window then spent = spent + amount end
end

local function parts(member)
  local slots, amount, start = string.match(member, ':(%d+):(%d+):(%d+)$')
  return tonumber(amount), tonumber(start), tonumber(slots)
end

-- true: it was not there before
local function enter(member, slots, lease)
  local new = redis.call('ZADD', KEYS[2], now + lease, member) == 1
  if new then open = open + slots end
  return new
end

-- true: it was there
local function leave(member, slots)
  local known = redis.call('ZREM', KEYS[2], member) == 1
  if known then open = open - slots end
  return known
end

local function save()
  local account = struct.pack('{STORED.format}', born, requests, tokens, window, spent, open)
  redis.call('SET', KEYS[1], account, 'EX', keep)
end
"""

# ARGV: concurrent, requests a minute, tokens a minute, budget; lease in seconds;
# a prefetch: id or '', requests, slots, tokens, window; members...
# Returns for each member an `ADMISSION`: refused by (its place in `_BOUNDS`), wait, now, end, seconds until
# either bucket is empty; then the `PREFETCH`, if one was asked for and given: admitted members of its window
# are parts of it then
RESERVE = (
    _PRELUDE
    + f"""
local concurrent, budget = tonumber(ARGV[1]), tonumber(ARGV[4])
local request_limit, token_limit = tonumber(ARGV[2]), tonumber(ARGV[3])
local lease = tonumber(ARGV[5])
local answers, admitted = {{}}, {{}}

for _, dead in ipairs(open > 0 and redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now) or {{}}) do
  local reserved, at, slots = parts(dead)
  charge(at, -reserved)
  leave(dead, slots)
end

local function fill(arrival, limit, cost)
  if not limit then return arrival, 0 end
  local after = math.max(arrival, now) + cost * 60 / limit
  return after, after - now - 60
end

for i = 11, #ARGV do
  local member = ARGV[i]
  local amount, start, slots = parts(member)
  roll(start)
  local new_requests, request_wait = fill(requests, request_limit, 1)
  local new_tokens, token_wait = fill(tokens, token_limit, amount)
  local refused, wait = 0, 0
  if concurrent and open + #admitted >= concurrent then
    refused, wait = 1, {BUSY_WAIT_S}
  elseif request_wait > 0 then
    refused, wait = 2, request_wait
  elseif token_wait > 0 then
    refused, wait = 3, token_wait
  elseif budget and spent + amount > budget then
    refused = 4
  else
    requests, tokens = new_requests, new_tokens
    charge(start, amount)
    admitted[#admitted + 1] = member
  end
  answers[#answers + 1] = struct.pack('{ADMISSION.format}', refused, wait, now, tokens,
                                      math.max(0, requests - now), math.max(0, tokens - now))
end

local function left(arrival, limit)
  return limit and (now + 60 - math.max(arrival, now)) * limit / 60 or math.huge
end

if ARGV[6] ~= '' then
  local start, wanted, wanted_tokens = tonumber(ARGV[10]), tonumber(ARGV[7]), tonumber(ARGV[9])
  local part = wanted <= {FEW} and {SHARE_OF_FEW} or {SHARE}
  local plenty = wanted <= {FEW}
  local function share(most, rest)
    local taken = math.floor(math.min(most, rest / part))
    plenty = plenty and {PLENTY} * taken <= rest
    return taken
  end
  roll(start)
  local count = share(wanted, left(requests, request_limit))
  local slots = share(tonumber(ARGV[8]), concurrent and concurrent - open - #admitted or math.huge)
  local rest = math.min(left(tokens, token_limit), budget and budget - spent or math.huge)
  local amount = share(wanted_tokens, rest)
  if math.min(count, slots) > 0 and amount * wanted >= wanted_tokens then
    local function is_little(some, of)
      return {PLENTY * MORE} * some <= of
    end
    if plenty and is_little(count, left(requests, request_limit)) and is_little(amount, rest) then
      count, amount = {MORE} * count, {MORE} * amount
    end
    requests = fill(requests, request_limit, count)
    tokens = fill(tokens, token_limit, amount)
    charge(start, amount)
    local others = {{}}
    for _, member in ipairs(admitted) do
      local reserved, window = parts(member)
      if window == start then
        count, slots, amount = count + 1, slots + 1, amount + reserved
      else
        others[#others + 1] = member
      end
    end
    admitted = others
    enter(string.format('%s:%d:%d:%d', ARGV[6], slots, amount, start), slots,
          plenty and lease * {LONGER} or lease)
    answers[#answers + 1] = struct.pack('{PREFETCH.format}', count, slots, amount, now, tokens, requests,
                                        plenty and 1 or 0)
  end
end
for _, member in ipairs(admitted) do
  enter(member, 1, lease)
end
save()
redis.call('EXPIRE', KEYS[2], keep)
return answers
"""
)

_SETTLING = """
local function corrected(arrival, limit, excess, finish)
  local seconds = excess * 60 / limit
  if seconds < 0 then return math.max(arrival, now) - seconds end
  return arrival - math.min(seconds, math.max(0, finish - now))
end

-- true: the account knew it
local function settle(member, limit, at, finish, used, again)
  local amount, start, slots = parts(member)
  roll(start)
  if not leave(member, slots) then
    if not again then charge(start, used) end
    return false
  end
  charge(start, used - amount)
  if limit and at >= born then tokens = corrected(tokens, limit, amount - used, finish) end
  return true
end
"""

# ARGV: tokens a minute; then for each: member, at, end, tokens used, 1 when this may be the second time
SETTLE = (
    _PRELUDE
    + _SETTLING
    + """
local limit = tonumber(ARGV[1])
for i = 2, #ARGV, 5 do
  local at, finish, used = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  settle(ARGV[i], limit, at, finish, used, ARGV[i + 4] == '1')
end
save()
"""
)

# ARGV: tokens a minute, requests a minute, lease in seconds; the prefetch: member, at, end, requests' end,
# requests and tokens left of it, 1 when this may be the second time; members that still run...
RELEASE = (
    _PRELUDE
    + _SETTLING
    + """
local limit, at, again = tonumber(ARGV[2]), tonumber(ARGV[5]), ARGV[10] == '1'
local used = parts(ARGV[4]) - tonumber(ARGV[9])
local known = settle(ARGV[4], tonumber(ARGV[1]), at, tonumber(ARGV[6]), used, again)
if known and limit and at >= born then
  requests = corrected(requests, limit, tonumber(ARGV[8]), tonumber(ARGV[7]))
end
if known or not again then
  for i = 11, #ARGV do
    local amount, start, slots = parts(ARGV[i])
    if not enter(ARGV[i], slots, tonumber(ARGV[3])) then charge(start, -amount) end
  end
end
save()
redis.call('EXPIRE', KEYS[2], keep)
"""
)

# ARGV: lease in seconds, members...
RENEW = (
    _PRELUDE
    + """
for i = 2, #ARGV do
  local amount, start, slots = parts(ARGV[i])
  roll(start)
  if enter(ARGV[i], slots, tonumber(ARGV[1])) then charge(start, amount) end
end
save()
redis.call('EXPIRE', KEYS[2], keep)
"""
)


def to_reserve(limits: KeyLimits, wanted: Grant | None, lease_s: float, members: Iterable[str]) -> Arguments:
    """The arguments of `RESERVE`: a member for each request, and the grant to prefetch with them."""
    ahead = (
        ("",) * 5
        if wanted is None
        else (wanted.id, wanted.requests, wanted.slots, wanted.tokens, wanted.window)
    )
    return [
        _bound(limits.concurrent_requests),
        _bound(limits.requests_per_minute),
        _bound(limits.tokens_per_minute),
        _bound(limits.budget_tokens),
        lease_s,
        *ahead,
        *members,
    ]


def to_settle(limits: KeyLimits, settlements: Iterable[tuple[Grant, int, bool, bool]]) -> Arguments:
    """The arguments of `SETTLE`. A settlement: grant, tokens used, whether again, whether Redis was away."""
    arguments = [_bound(limits.tokens_per_minute)]
    for grant, used, again, local in settlements:
        at = 0.0 if local else grant.at  # Redis's buckets do not hold it
        arguments += (grant.id, at, grant.end, used, int(again))
    return arguments


def to_release(limits: KeyLimits, remainder: Remainder, lease_s: float, *, again: bool) -> Arguments:
    """The arguments of `RELEASE`."""
    grant = remainder.grant
    return [
        _bound(limits.tokens_per_minute),
        _bound(limits.requests_per_minute),
        lease_s,
        *(grant.id, grant.at, grant.end, grant.requests_end),
        *(remainder.requests, remainder.tokens, int(again)),
        *(one.id for one in remainder.running),
    ]


def _bound(limit: int | None) -> str | float:
    return "" if limit is None else limit


def admission(answer: bytes) -> Admission:
    """One request's part of the reply to `RESERVE`."""
    refused_by, *figures = ADMISSION.unpack(answer)
    return Admission(_BOUNDS[refused_by], *figures)


def prefetched(answer: bytes, wanted: Grant) -> Grant:
    """The part of `wanted` that was granted, and what came with it. Its id is its member among the leases."""
    requests, slots, tokens, at, end, requests_end, plenty = PREFETCH.unpack(answer)
    ident = member(wanted.id, int(slots), int(tokens), wanted.window)
    grant = Grant(ident, int(tokens), wanted.window, at, end, requests_end, int(requests), int(slots))
    grant.plenty = bool(plenty)
    return grant


def member(ident: str, slots: int, tokens: int, window: int) -> str:
    """A grant's name among the leases, from which the scripts read its figures."""
    return f"{ident}:{slots}:{tokens}:{window}"
