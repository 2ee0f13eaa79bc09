"""Responses stored in Redis: each for `ttl_s`, all of them within `max_total_bytes`, oldest evicted first.

A response belongs to the key that asked for it: the key's digest is part of its Redis key, so another key
finds nothing. Answers do not wait for the store, and a response that cannot be stored is logged and counted.
A response is sent to Redis before its last byte is sent to the client.
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
_KEEP = f"""{_FORGET}
local now = tonumber(redis.call('TIME')[1])
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do forget(gone) end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[2], #ARGV[1] .. ':' .. KEYS[1])
local total = redis.call('INCRBY', KEYS[3], #ARGV[1])
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

    async def delete(self, owner: str, ident: str) -> bool:
        """Whether the response was there."""
        link = await self._connected()
        return bool(await link.call("EVAL", _DELETE, 3, _redis_key(owner, ident), _INDEX, _TOTAL))

    def keep(self, owner: str, ident: str, data: bytes) -> None:
        """Store a response. Never waits and never raises."""
        if len(data) > self._bounds.max_bytes:
            self._lost(ident, "too_large", f"{len(data)} bytes; responses.max_bytes allows fewer")
            return
        bounds = self._bounds.ttl_s, self._bounds.max_total_bytes
        command = ("EVAL", _KEEP, 3, _redis_key(owner, ident), _INDEX, _TOTAL, data, *bounds)
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
        if not done.cancelled() and (error := done.exception()):
            self._lost(ident, "redis", str(error))

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
