"""Responses and conversations stored in Redis: each for `ttl_s`, all of them within `max_total_bytes`, oldest
evicted first.

They belong to the key that asked for them: the key's digest is part of their Redis keys, so another key finds
nothing. Answers do not wait for the store, and a response that cannot be stored is logged and counted. It is
sent to Redis before its last byte is sent to the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

from cortex_site.config.cortex_toml import ResponsesSettings
from fleet.gateway.control.redis_link import LinkError, RedisLink
from fleet.gateway.record import metrics

log = logging.getLogger("cortex.responses")

PROBE_S = 1.0  # between attempts to reach Redis
_INDEX = "cortex:responses"  # a sorted set by expiry; members are "<bytes>:<Redis key>"
_TOTAL = "cortex:responses:bytes"

_FORGET = """
local function forget(member)
  redis.call('ZREM', KEYS[2], member)
  return redis.call('DECRBY', KEYS[3], string.match(member, '^%d+'))
end
"""
# ARGV: data, seconds, bytes of all, and how: "set"; "add" to what is there, with the bytes it may have then;
# "swap" for what is there, with the data that must be there.
_KEEP = f"""{_FORGET}
local now = tonumber(redis.call('TIME')[1])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do forget(gone) end
local size, data = redis.call('STRLEN', KEYS[1]), ARGV[1]
if ARGV[4] ~= 'set' and size == 0 then return 'gone' end
if ARGV[4] == 'add' then
  if size + #data > tonumber(ARGV[5]) then return 'full' end
  data = redis.call('GET', KEYS[1]) .. data
elseif ARGV[4] == 'swap' and redis.call('GET', KEYS[1]) ~= ARGV[5] then
  return 'changed'
end
local member = size .. ':' .. KEYS[1]
if redis.call('ZSCORE', KEYS[2], member) then forget(member) end
redis.call('SET', KEYS[1], data, 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[2], #data .. ':' .. KEYS[1])
local total = redis.call('INCRBY', KEYS[3], #data)
while total > tonumber(ARGV[3]) do
  local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not oldest then break end
  redis.call('DEL', string.match(oldest, ':(.*)'))
  total = forget(oldest)
end
"""
_DELETE = f"""{_FORGET}
local size = redis.call('STRLEN', KEYS[1])
if size == 0 then return 0 end
redis.call('DEL', KEYS[1])
local member = size .. ':' .. KEYS[1]
if redis.call('ZSCORE', KEYS[2], member) then forget(member) end
return 1
"""


class ResponseStore:
    """Connects on first use. `get` and `delete` raise `LinkError` while Redis is away."""

    def __init__(self, url: str, bounds: ResponsesSettings, *, timeout_s: float) -> None:
        self._url = url
        self._bounds = bounds
        self._timeout_s = timeout_s
        self._link: RedisLink | None = None
        self._opening = asyncio.Lock()
        self._retry_at = 0.0
        self._keeping: set[asyncio.Task[None]] = set()

    async def get(self, owner: str, ident: str) -> bytes | None:
        found: bytes | None = await (await self._connected()).call("GET", _redis_key(owner, ident))
        return found

    async def beat(self, ident: str, seconds: int) -> None:
        """Say that a response is being made, for so many `seconds`."""
        await (await self._connected()).call("SET", f"cortex:response:alive:{ident}", "1", "EX", seconds)

    async def is_alive(self, ident: str) -> bool:
        """Whether a response is being made."""
        return bool(await (await self._connected()).call("EXISTS", f"cortex:response:alive:{ident}"))

    async def delete(self, owner: str, ident: str) -> bool:
        """Whether the response was there."""
        link = await self._connected()
        return bool(await link.call("EVAL", _DELETE, 3, _redis_key(owner, ident), _INDEX, _TOTAL))

    async def put(self, owner: str, ident: str, data: bytes) -> None:
        """Store what is at most `responses.max_bytes` long, and wait until it is."""
        await (await self._connected()).call(*self._keeping_of(owner, ident, data))

    async def swap(self, owner: str, ident: str, old: bytes, new: bytes) -> bool:
        """Whether `old` was still there, and is replaced by `new`."""
        command = self._keeping_of(owner, ident, new, "swap", old)
        return await (await self._connected()).call(*command) is None

    def add(self, owner: str, ident: str, data: bytes) -> None:
        """Add to what is there. Never waits and never raises."""
        self._keep(ident, self._keeping_of(owner, ident, data, "add", self._bounds.max_bytes))

    def keep(self, owner: str, ident: str, data: bytes, *, instead_of: bytes | None = None) -> None:
        """Store a response, if it is there as it was where one is given. Never waits and never raises."""
        if len(data) > self._bounds.max_bytes:
            self._lost(ident, "too_large", f"{len(data)} bytes; responses.max_bytes allows fewer")
            return
        how = () if instead_of is None else ("swap", instead_of)
        self._keep(ident, self._keeping_of(owner, ident, data, *how))

    def _keeping_of(self, owner: str, ident: str, data: bytes, *how: bytes | str | int) -> tuple[Any, ...]:
        keys = _redis_key(owner, ident), _INDEX, _TOTAL
        bounds = self._bounds.ttl_s, self._bounds.max_total_bytes
        return "EVAL", _KEEP, len(keys), *keys, data, *bounds, *(how or ("set",))

    def _keep(self, ident: str, command: tuple[Any, ...]) -> None:
        if self._link is not None and self._link.is_open:
            self._send(self._link, ident, command)
            return
        task = asyncio.create_task(self._send_later(ident, command), name="keep response")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._keeping)
        if self._link is not None:
            self._link.close()

    async def _send_later(self, ident: str, command: tuple[Any, ...]) -> None:
        try:
            self._send(await self._connected(), ident, command)
        except LinkError as error:
            self._lost(ident, "redis", str(error))

    def _send(self, link: RedisLink, ident: str, command: tuple[Any, ...]) -> None:
        link.call(*command).add_done_callback(partial(self._sent, ident))

    def _sent(self, ident: str, done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        if error := done.exception():
            self._lost(ident, "redis", str(error))
        elif done.result():
            self._lost(ident, done.result().decode(), "nothing could be added to it")

    def _lost(self, ident: str, reason: str, text: str) -> None:
        metrics.RESPONSES_NOT_STORED.labels(reason).inc()
        log.warning("response not stored", extra={"response": ident, "reason": text})

    async def _connected(self) -> RedisLink:
        async with self._opening:
            if self._link is not None and self._link.is_open:
                return self._link
            if time.monotonic() < self._retry_at:
                raise LinkError("Redis is away")
            try:
                self._link = await RedisLink.open(self._url, self._timeout_s)
            except LinkError:
                self._retry_at = time.monotonic() + PROBE_S
                raise
            return self._link


def _redis_key(owner: str, ident: str) -> str:
    return f"cortex:response:{owner}:{ident}"
