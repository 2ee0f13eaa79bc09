from __future__ import annotations

import asyncio

from cortex_site.http.flow import Flow
from ext.stream import Outlet


class ClientSink(Outlet):
    """The `Sink` of one response: HTTP chunks, or bare bytes for a client of HTTP/1.0."""

    def __init__(self, transport: asyncio.Transport, flow: Flow, *, chunked: bool) -> None:
        super().__init__(transport.write, flow, chunked)
        self._transport = transport

    async def drain(self) -> None:
        await self.flow.drain()

    async def __call__(self, chunk: bytes) -> None:
        if not self.put(chunk):
            await self.drain()

    @property
    def is_open(self) -> bool:
        """False once the client has disconnected."""
        return not self._transport.is_closing()
