# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Keep-alive connections to one node.

`Pool.request` sends one request and returns once the head of its answer is there. Servers close idle
connections at any moment: a request that a kept connection lost before a byte of the answer came is sent
again, once, on a new one. Nearly always the node had not read it; without `PoolBounds.resend` that is not
risked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cortex_site.base.certificate import trusting
from ext.writer import ByteWriter
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.connection import Connection, connect
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse

_writer = ByteWriter()


class Begun:
    """A request that was sent, whose answer no task waits for yet. It is ended by `close` or `answer`."""

    __slots__ = ("_is_over", "_pool", "body", "connection", "head")

    def __init__(self, pool: Pool, connection: Connection, head: bytes, body: bytes) -> None:
        self._pool = pool
        self.connection = connection
        self.head = head
        self.body = body
        self._is_over = False

    def close(self) -> None:
        """Return the connection to the pool, or cut it if the answer was not read to its end."""
        if not self._is_over:
            self._is_over = True
            self._pool.release(self.connection)

    def forget(self) -> None:
        """Keep no longer what was sent: it will not be sent again."""
        self.head = self.body = b""

    async def answer(self) -> UpstreamResponse:
        """Wait for the head of the answer. Raises `UpstreamError`."""
        self._is_over = True
        self.connection.listen(None)
        return await self._pool.answer_to(self)


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
        self._base = parts.path.rstrip("/").encode("latin-1", "replace")
        self._bounds = bounds
        static = f"host: {parts.netloc}\r\n"
        if token:
            static += f"authorization: Bearer {token}\r\n"
        self._static = static.encode("latin-1", "replace")
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
        self, method: str, path: str, *, lines: bytes = b"", body: bytes = b""
    ) -> UpstreamResponse:
        """Send one request and return the head of its answer. Raises `UpstreamError`.

        `lines` are headers, each with its CRLF.
        """
        head = self._head(method, path, lines, body)
        queued_s = 0.0
        if self._places:
            self._places -= 1
        else:
            queued_s = await self._queue()
        return await self._answer(head, body, queued_s)

    def begin(self, method: str, path: str, lines: bytes, body: bytes) -> Begun | None:
        """Send one request on a kept connection; None where that would have to be waited for."""
        if not self._places or (connection := self.pop_idle()) is None:
            return None
        head = self._head(method, path, lines, body)
        self._places -= 1
        self._busy.add(connection)
        connection.send(head, body)
        return Begun(self, connection, head, body)

    def _head(self, method: str, path: str, lines: bytes, body: bytes) -> bytes:
        head = _writer
        head.clear()
        head.put(method.encode("latin-1"))
        head.put(b" ")
        head.put(self._base)
        head.put(path.encode("latin-1"))
        head.put(b" HTTP/1.1\r\n")
        head.put(self._static)
        head.put(lines)
        if body or method == "POST":
            head.put_number(b"content-length: ", len(body))
            head.put(b"\r\n")
        head.put(b"\r\n")
        return head.written(0, head.size)

    async def _answer(
        self, head: bytes, body: bytes, queued_s: float, sent: Connection | None = None
    ) -> UpstreamResponse:
        """The head of the answer to a request that has a place."""
        try:
            return UpstreamResponse(await self._send(head, body, sent), self.release, queued_s)
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

    async def _send(self, head: bytes, body: bytes, sent: Connection | None) -> Connection:
        """Send on a kept connection or a new one, unless it is `sent`; wait for the head of its answer."""
        kept = sent or self.pop_idle()
        while True:
            connection = kept or await self._connect()
            self._busy.add(connection)
            try:
                if connection is not sent:
                    connection.send(head, body)
                await connection.head()
            except BaseException as error:
                connection.abort()
                self._busy.discard(connection)
                if not (connection is kept and connection.is_lost_to(error) and self._bounds.resend):
                    raise
                kept = sent = None
            else:
                return connection

    def pop_idle(self) -> Connection | None:
        """Take a kept connection that is still good, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        if self._closed:
            raise UpstreamError("connect", "the node was removed from the fleet")
        return await connect(self._host, self._port, self._tls, self._bounds)

    def answer_to(self, begun: Begun) -> Coroutine[Any, Any, UpstreamResponse]:
        """Wait for the head of the answer to a request that was begun. Raises `UpstreamError`."""
        return self._answer(begun.head, begun.body, 0.0, begun.connection)

    def release(self, connection: Connection) -> None:
        connection.listen(None)
        self._busy.discard(connection)
        self._free()
        if self._closed or not connection.may_be_kept():
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
