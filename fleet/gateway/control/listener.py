"""What Redis announces to this worker: that the configuration changed, that the control plane's tasks run."""

from __future__ import annotations

import asyncio
import logging
import time

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from fleet.announcements import CONFIGURATION, POLLED

log = logging.getLogger("cortex.listener")

RECONNECT_S = 1.0


class Listener:
    """`run` listens until it is cancelled. Announcements may be lost, so nothing depends on one."""

    def __init__(self, url: str, *, timeout_s: float, polled_within_s: float) -> None:
        self.changed = asyncio.Event()  # cleared by the reader of the configuration
        self._url = url
        self._timeout_s = timeout_s
        self._polled_within_s = polled_within_s
        self._polled_at = time.monotonic()
        self._away = False

    @property
    def missing(self) -> list[str]:
        """`redis` while it is away; `tasks` when no node was polled lately, by beat and the task workers."""
        if self._away:
            return ["redis"]
        return ["tasks"] if time.monotonic() > self._polled_at + self._polled_within_s else []

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
                reason = "Redis ended the subscription"
            except (RedisError, OSError, ValueError) as error:
                reason = str(error)
            if not self._away:
                log.warning("no announcements from Redis", extra={"reason": reason})
            self._away = True
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        async with (
            Redis.from_url(
                self._url, socket_connect_timeout=self._timeout_s, retry=Retry(NoBackoff(), 0)
            ) as redis,
            redis.pubsub(ignore_subscribe_messages=True) as subscription,
        ):
            await subscription.subscribe(CONFIGURATION, POLLED)
            if self._away:
                log.warning("announcements from Redis are back")
            self._away = False
            self._polled_at = time.monotonic()
            self.changed.set()  # a change may have been announced meanwhile
            async for message in subscription.listen():
                self._hear(message["channel"].decode())

    def _hear(self, channel: str) -> None:
        if channel == CONFIGURATION:
            self.changed.set()
        else:
            self._polled_at = time.monotonic()
