"""One small HTTP request to a server that may not be there."""

from __future__ import annotations

import asyncio

from cortex_site.base.certificate import unverified

PROBE_TIMEOUT_S = 2.0


async def http_get(host: str, port: int, path: str, *, tls: bool = False) -> tuple[int, bytes]:
    """The status and body of a GET; status 0 when nobody answers HTTP within `PROBE_TIMEOUT_S`.

    Over TLS the server is not verified: it is one of this machine's own, and sends and gets no secret.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=unverified() if tls else None)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        return int(head.split(b" ", 2)[1]), body
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, b""
