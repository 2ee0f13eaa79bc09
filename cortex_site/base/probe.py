"""One small HTTP request to a server that may not be there."""

from __future__ import annotations

import asyncio

PROBE_TIMEOUT_S = 2.0


async def http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when nobody answers HTTP within `PROBE_TIMEOUT_S`."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, b""
