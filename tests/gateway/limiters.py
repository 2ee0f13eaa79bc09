"""What tests of the limiter share: keys, limiters that end, and a look into Redis."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from fleet.gateway.limits import Limiter
from fleet.limits import KeyLimits, read_account, redis_keys
from fleet.snapshot import KeyView

DIGEST = "d" * 64
ACCOUNT, LEASES = redis_keys(DIGEST)


def key(**limits) -> KeyView:
    return KeyView("laptop", DIGEST, limits=KeyLimits(**limits))


@asynccontextmanager
async def limiting(url, **options):
    limiter = Limiter(url, **{"timeout_s": 1.0, **options})
    try:
        yield limiter
    finally:
        await limiter.close()


async def until(condition, limit_s=15):
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def spent(server) -> int:
    return read_account(server.client.get(ACCOUNT)).spent
