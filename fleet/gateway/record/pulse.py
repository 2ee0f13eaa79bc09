"""What a worker says of itself several times a second: how late its event loop is, and a few gauges."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fleet.gateway.record import metrics

if TYPE_CHECKING:
    from fleet.gateway.app import Gateway

INTERVAL_S = 0.25


async def pulse(gateway: Gateway) -> None:
    """Runs until cancelled. A timer's lateness is what a chunk that came just then would have waited."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        metrics.LOOP_DELAY.observe(max(0.0, loop.time() - due))
        metrics.OPEN_STREAMS.set(gateway.open_streams)
        metrics.RECORDS_WAITING.set(gateway.recorder.waiting)
        metrics.LIMITER_LOCAL.set(int(gateway.limiter.local))
        metrics.show_breakers(gateway.nodes.breakers)
