"""Keep-alive connections to one node.

`Pool.request` sends one request and returns once the head of its answer is there. Servers close idle
connections at any moment: a request that a kept connection lost before a byte of the answer came is sent
again, once, on a new one. Nearly always the node had not read it; without `PoolBounds.resend` that is not
risked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from cortex_site.base.certificate import trusting
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse


class Pool:
    """The connections to one endpoint (`http://host:port`).

    Over TLS it is verified by the system's authorities and those in the file `ca`.
    """

    def __init__(
        self, endpoint: str, bounds: PoolBounds, *, token: str | None = None, ca: Path | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = trusting(ca) if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        self._bounds = bounds
        self._static = f"host: {parts.netloc}\r\n"
        if token:
            self._static += f"authorization: Bearer {token}\r\n"
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._places = bounds.max_connections  # how many more exchanges may run at once
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return sum(not turn.done() for turn in self._waiting)

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> UpstreamResponse:
        """Send one request and return the head of its answer. Raises `UpstreamError`."""
        given = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) if headers else ""
        size = f"content-length: {len(body)}\r\n" if body or method == "POST" else ""
        head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._static}{given}{size}\r\n".encode("latin-1")
        queued_s = 0.0
        if self._places:
            self._places -= 1
        else:
            queued_s = await self._queue()
        try:
            return UpstreamResponse(await self._send(head, body), self.release, queued_s)
        except BaseException:
            self._free()
            raise

    async def _queue(self) -> float:
        """Wait for a free place, first come, first served. Return the seconds that it took."""
        if len(self._waiting) >= self._bounds.max_queue:
            raise UpstreamError("busy", f"{self._bounds.max_queue} requests wait for a connection already")
        loop = asyncio.get_running_loop()
        start, turn = loop.time(), loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._bounds.queue_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._free()  # it got a place and cannot use it
            if isinstance(error, asyncio.CancelledError):
                raise
            message = f"all {self._bounds.max_connections} connections stayed in use"
            raise UpstreamError("busy", f"{message} for {self._bounds.queue_s:g} s") from error
        return loop.time() - start

    def _free(self) -> None:
        """Give a place to the request that has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._places += 1

    async def _send(self, head: bytes, body: bytes) -> Connection:
        """Send on a kept connection or a new one. Return it once it has the head of the answer."""
        kept = self._pop_idle()
        while True:
            connection = kept or await self._connect()
            self._busy.add(connection)
            try:
                await connection.send(head, body)
            except BaseException as error:
                connection.abort()
                self._busy.discard(connection)
                if not (connection is kept and connection.is_lost_to(error) and self._bounds.resend):
                    raise
                kept = None
            else:
                return connection

    def _pop_idle(self) -> Connection | None:
        horizon = asyncio.get_running_loop().time() - self._bounds.keep_alive_s
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_since > horizon:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        if self._closed:
            raise UpstreamError("connect", "the node was removed from the fleet")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._bounds.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._bounds), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise UpstreamError("connect", f"no connection within {self._bounds.connect_s:g} s") from error
        except OSError as error:
            raise UpstreamError("connect", f"no connection: {error.strerror or error}") from error
        return connection

    def release(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._free()
        if self._closed or not connection.is_reusable:
            connection.abort()
            return
        connection.rest()
        self._idle.append(connection)

    def close(self) -> None:
        """Cut every connection. Exchanges under way end with `UpstreamError`."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            with suppress(RuntimeError):  # the loop may be closing
                connection.abort()
        self._idle.clear()
