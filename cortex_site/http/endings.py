"""How a connection is left when its client does not keep up with it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cortex_site.http.flow import Flow

LINGER_S = 2.0  # a client that is still sending has this long to read its refusal


def linger(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Close later: closing on unread bytes would reset the connection, and the answer with it."""
    if transport.can_write_eof():  # not over TLS, where `connection: close` has to do
        transport.write_eof()
    loop.call_later(LINGER_S, transport.close)


async def let_read(transport: asyncio.Transport, flow: Flow, patience_s: float) -> bool:
    """Return whether the client has read most of its answer: the next would only grow on top of it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            await flow.drain()
            return True
    transport.abort()
    return False
