"""What the control plane tells every data-plane worker over Redis.

Hints only: they are quick and may be lost. Whoever listens has a slower way to find out.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import redis
from django.conf import settings

CONFIGURATION = "cortex:configuration"  # the number of a new version
POLLED = "cortex:polled"  # beat and a task worker are at work

log = logging.getLogger("cortex.announcements")


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)


def publish(channel: str, value: int) -> None:
    """Tell whoever listens now; Redis being away is logged and nothing else."""
    try:
        _redis().publish(channel, value)
    except redis.RedisError as error:
        log.warning("not announced", extra={"channel": channel, "error": str(error)})
