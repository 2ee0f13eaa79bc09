from __future__ import annotations

import asyncio
from collections.abc import Callable

PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
PROBE_S, MAX_PROBE_S = 0.1, 5.0  # between two looks at whether a client that ended its sending is still there


def probe(transport: asyncio.Transport, is_awaited: Callable[[], bool], again_s: float = PROBE_S) -> None:
    """Write what clients of HTTP/1.1 pass over (RFC 9110, 15.2), now and then, while an answer `is_awaited`.

    A client that has left sends a reset.
    """
    if transport.is_closing():
        return
    if is_awaited():
        transport.write(PROCESSING)
    later_s = min(2 * again_s, MAX_PROBE_S)
    asyncio.get_running_loop().call_later(again_s, probe, transport, is_awaited, later_s)
