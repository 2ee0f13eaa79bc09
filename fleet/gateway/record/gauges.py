"""The gauges that a worker shows of itself, and how late its event loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fleet.gateway.record import metrics

INTERVAL_S = 0.25


class WorkerGauges(NamedTuple):
    """One reading."""

    open_streams: int
    records_waiting: int
    limiter_local: bool
    breakers: Mapping[str, str]  # states, by node


async def publish(read: Callable[[], WorkerGauges]) -> None:
    """Show a reading every `INTERVAL_S`, until cancelled.

    The lateness of this task's timer is what a chunk that arrived just then would have waited.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        metrics.LOOP_DELAY.observe(max(0.0, loop.time() - due))
        reading = read()
        metrics.OPEN_STREAMS.set(reading.open_streams)
        metrics.RECORDS_WAITING.set(reading.records_waiting)
        metrics.LIMITER_LOCAL.set(int(reading.limiter_local))
        metrics.show_breakers(reading.breakers)
