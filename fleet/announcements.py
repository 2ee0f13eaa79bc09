"""What the control plane announces to every data-plane worker over Redis.

Announcements are quick and may be lost: each listener has a slower way to learn the same.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import redis
from django.conf import settings

CONFIGURATION = "cortex:configuration"  # the number of a new version
POLLED = "cortex:polled"  # beat and a task worker are alive

log = logging.getLogger("cortex.announcements")


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)


def publish(channel: str, value: int) -> None:
    """Announce `value` to those who listen now. Logs a warning when Redis is away."""
    try:
        _redis().publish(channel, value)
    except redis.RedisError as error:
        log.warning("not announced", extra={"channel": channel, "error": str(error)})
