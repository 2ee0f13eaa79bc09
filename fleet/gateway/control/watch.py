"""Whether the control plane's web process answers: `/health` reports it, and no request depends on it."""

from __future__ import annotations

import asyncio

from cortex_site.base.addresses import local_address
from cortex_site.base.probe import http_get

MISSES = 2  # in a row make it missing: one may be due to a slow page before it


class ControlWatch:
    """`run` asks until it is cancelled. The page that it asks for needs no database."""

    def __init__(self, listen: str, interval_s: float) -> None:
        self._address = local_address(listen)
        self._interval_s = interval_s
        self._missed = 0

    @property
    def missing(self) -> list[str]:
        return ["control"] if self._missed >= MISSES else []

    async def run(self) -> None:
        while True:
            status, _ = await http_get(*self._address, "/")
            self._missed = 0 if status else self._missed + 1
            await asyncio.sleep(self._interval_s)
