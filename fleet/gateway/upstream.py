"""Keep-alive connections to one node.

`Pool.request` sends one request and returns when the answer's head is there. A kept connection that turns out
to be closed before a byte of the answer came is replaced by a fresh one, once: servers close idle connections
at any moment. Nearly always the request was not read; `Limits.resend` is off where nearly is not enough.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

from fleet.gateway.connection import Connection, Limits, UpstreamError


class Response:
    """The head of an answer, and its body still to come. `close` must be called, and may be called twice."""

    def __init__(self, pool: Pool, connection: Connection) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self.status = connection.head.status
        self.queued_s = 0.0  # the request waited so long for a connection
        self.headers: Mapping[str, str] = connection.head.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        assert self._connection is not None
        async for chunk in self._connection.chunks():
            yield chunk

    async def pour(self, take: Callable[[bytes], bool], drain: Callable[[], Awaitable[None]]) -> None:
        assert self._connection is not None
        await self._connection.pour(take, drain)

    async def read(self, max_bytes: int) -> bytes:
        """The whole body; `UpstreamError` when it is longer than `max_bytes`."""
        assert self._connection is not None
        return await self._connection.read(max_bytes)

    def close(self) -> None:
        """Give the connection back if the body was read to its end; else cut it, which tells the node."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


class Pool:
    """The connections to one endpoint (`http://host:port`)."""

    def __init__(self, endpoint: str, limits: Limits, *, token: str | None = None) -> None:
        parts = urlsplit(endpoint)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = parts.scheme == "https"
        self._base = parts.path.rstrip("/")
        self._limits = limits
        self._static = f"host: {parts.netloc}\r\n"
        if token:
            self._static += f"authorization: Bearer {token}\r\n"
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._places = limits.max_connections  # that are free
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
    ) -> Response:
        """Send one request; the answer's head when it is there. Raises `UpstreamError`."""
        lines = [f"{method} {self._base}{path} HTTP/1.1\r\n{self._static}"]
        lines += [f"{name}: {value}\r\n" for name, value in (headers or {}).items()]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}\r\n")
        head = ("".join(lines) + "\r\n").encode("latin-1")
        queued_s = await self._acquire()
        try:
            response = await self._send(head, body)
        except BaseException:
            self._free()
            raise
        response.queued_s = queued_s
        return response

    async def _acquire(self) -> float:
        """Take one of `max_connections` places, in order of arrival; the seconds that took."""
        if self._places:
            self._places -= 1
            return 0.0
        if len(self._waiting) >= self._limits.max_queue:
            raise UpstreamError("busy", f"{self._limits.max_queue} requests wait for a connection already")
        loop = asyncio.get_running_loop()
        start, turn = loop.time(), loop.create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._limits.queue_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._free()  # called, and gone: the next one's turn
            if isinstance(error, asyncio.CancelledError):
                raise
            message = f"all {self._limits.max_connections} connections stayed in use"
            raise UpstreamError("busy", f"{message} for {self._limits.queue_s:g} s") from error
        return loop.time() - start

    def _free(self) -> None:
        """Hand a place to who waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._places += 1

    async def _send(self, head: bytes, body: bytes) -> Response:
        kept = self._pop_idle()
        if kept is not None:
            try:
                return await self._exchange(kept, head, body)
            except UpstreamError as error:
                if error.kind != "closed" or kept.answered or not self._limits.resend:
                    raise
        return await self._exchange(await self._connect(), head, body)

    async def _exchange(self, connection: Connection, head: bytes, body: bytes) -> Response:
        self._busy.add(connection)
        try:
            await connection.send(head, body)
        except BaseException:
            connection.abort()
            self._busy.discard(connection)
            raise
        return Response(self, connection)

    def _pop_idle(self) -> Connection | None:
        horizon = asyncio.get_running_loop().time() - self._limits.keep_alive_s
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
            async with asyncio.timeout(self._limits.connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._limits), self._host, self._port, ssl=self._tls or None
                )
        except TimeoutError as error:
            raise UpstreamError("connect", f"no connection within {self._limits.connect_s:g} s") from error
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
        """Cut every connection; running exchanges end with `UpstreamError`."""
        self._closed = True
        for connection in [*self._idle, *self._busy]:
            with suppress(RuntimeError):  # the loop may be closing
                connection.abort()
        self._idle.clear()
