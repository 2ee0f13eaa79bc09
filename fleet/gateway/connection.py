"""One HTTP/1.1 connection to a node, on httptools' C parser.

Body bytes are read in chunks (`chunks`), or poured into a function from the socket's own callback (`pour`);
either way a slow reader pauses the socket. Everything that goes wrong is an `UpstreamError`; foreign
exceptions do not leave this module.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import httptools

Failure = Literal["connect", "timeout", "closed", "protocol", "busy"]

HIGH_WATER_BYTES = 1 << 18  # body bytes held for a slow reader before the socket is paused
MAX_HEAD_BYTES = 1 << 16


class UpstreamError(Exception):
    """A node did not answer properly. `kind` says what a caller can do about it:

    connect   nothing was sent; another node may be tried
    busy      nothing was sent; every connection to this node stayed in use
    timeout   the node did not answer in time
    closed    the connection ended within the answer, or before it
    protocol  what came is not HTTP
    """

    def __init__(self, kind: Failure, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and counts that bound every wait."""

    connect_s: float = 3.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    max_connections: int = 512
    queue_s: float = 10.0  # a request waits so long for one of them
    max_queue: int = 1024  # requests that wait
    keep_alive_s: float = 15.0  # shorter than any server keeps them
    resend: bool = True  # what a kept connection lost, on a fresh one


@dataclass(slots=True)
class Head:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    size: int = 0


class Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._head = Head()
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._head_seen = False
        self._complete = False
        self._keep_alive = False  # the parser says so while it ends a message, and only then
        self._answered = False  # at least one byte of this answer came
        self._error: Exception | None = None
        self._take: Callable[[bytes], bool] | None = None  # who gets body bytes as they come
        self._full = False  # `_take` wants no more for now
        self._heard_at = self._patience_s = 0.0
        self._missing = ""  # what a wait that takes longer lacks
        self._timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.Future[None] | None = None
        self.idle_since = 0.0

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._parser is None:  # bytes outside of an exchange: the server broke the protocol
            self.abort()
            return
        self._answered = True
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(UpstreamError("protocol", f"not an HTTP answer: {error}"))
        if not self._head_seen:
            self._head.size += len(data)
            if self._head.size > MAX_HEAD_BYTES:
                self._fail(UpstreamError("protocol", f"the answer's head is over {MAX_HEAD_BYTES} bytes"))
        if self._take is not None:
            self._pass_on(self._take)
        elif self._buffered > HIGH_WATER_BYTES:
            self._pause()
        if self._take is None or self._full or self._complete or self._error:
            self._notify()

    def _pass_on(self, take: Callable[[bytes], bool]) -> None:
        """What has come to the taker, from the socket's own callback; a taker that fails ends the answer."""
        if not self._chunks or self._full:
            return
        try:
            self._full = not take(self._take_all())
        except Exception as error:  # noqa: BLE001 - raised by `pour`, where its owner waits
            self._fail(error)
        if self._full:
            self._pause()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end_timer()
        if self._parser is None or self._complete:
            return
        if self._head_seen and self._ends_with_connection:
            self._complete = True
        elif self._error is None:
            when = "within the answer" if self._answered else "before it answered"
            self._error = UpstreamError("closed", f"the node closed the connection {when}")
        self._notify()

    # --- httptools callbacks ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:  # 1xx heads announce the real one
            self._head.status = status
            self._head_seen = True

    def on_message_begin(self) -> None:
        if self._complete:  # more than one answer to one request
            raise UpstreamError("protocol", "the node sent more than its answer")

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_seen:
            assert self._parser is not None
            self._complete, self._keep_alive = True, self._parser.should_keep_alive()
        else:
            self._head = Head()

    # --- one exchange ---

    async def send(self, request: bytes, body: bytes) -> None:
        """Write a request and wait for the head of its answer."""
        self._parser = httptools.HttpResponseParser(self)
        self._head, self._head_seen, self._complete, self._answered = Head(), False, False, False
        self._error = None if self.is_open else UpstreamError("closed", "the node closed the kept connection")
        if self._transport and not self._error:
            # One write for the common small body; a large one is not copied to be joined.
            self._transport.write(request + body if len(body) < 1 << 16 else request)
            if len(body) >= 1 << 16:
                self._transport.write(body)
        limit_s = self._limits.first_byte_s
        deadline = self._loop.time() + limit_s
        while not self._head_seen:  # in all: a head that trickles is as bad as none
            await self._wait(deadline - self._loop.time(), f"did not begin to answer within {limit_s:g} s")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, everything that is there at once."""
        while True:
            if self._chunks:
                data = self._take_all()
                self._resume()
                yield data
            elif self._complete:
                return
            else:
                await self._wait(self._limits.idle_s, "fell silent within the answer")

    async def read(self, max_bytes: int) -> bytes:
        """The whole body; `UpstreamError` when it is longer than `max_bytes`."""
        parts, size = [], 0
        while not self._complete or self._chunks:
            if self._chunks:
                parts.append(self._take_all())
                size += len(parts[-1])
                self._resume()
            else:
                await self._wait(self._limits.idle_s, "fell silent within the answer")
            if size > max_bytes:
                raise UpstreamError("protocol", f"the answer is longer than {max_bytes} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def pour(self, take: Callable[[bytes], bool], drain: Callable[[], Awaitable[None]]) -> None:
        """The whole body to `take`, called by the socket's callback: no task wakes for a chunk.

        When `take` returns False the socket is paused until `drain` has returned. What `take` raises is
        raised here.
        """
        self._take = take
        try:
            while True:
                self._pass_on(take)
                if self._full:
                    await drain()
                    self._full = False
                    self._resume()
                elif self._complete:
                    return
                else:
                    await self._wait(self._limits.idle_s, "fell silent within the answer")
        finally:
            self._take, self._full = None, False

    def _take_all(self) -> bytes:
        data = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        return data

    def _pause(self) -> None:
        if self._transport and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport and self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def _wait(self, seconds: float, what: str) -> None:
        """Until something arrives; body bytes that came before a failure are read before it is raised.

        In `pour` the silence is measured from the last byte.
        """
        if self._error:
            raise self._error
        self._heard_at, self._patience_s, self._missing = self._loop.time(), seconds, what
        self._look_by(self._heard_at + seconds)
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _look_by(self, when: float) -> None:
        """One timer a connection, kept from wait to wait: to make and cancel one costs more than a look."""
        if self._timer is None or self._timer.when() > when:
            self._end_timer()
            self._timer = self._loop.call_at(when, self._look_at_silence)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_silence(self) -> None:
        self._timer = None
        due = self._heard_at + self._patience_s
        if self._wake is None:
            return
        if due <= self._loop.time():
            self._fail(UpstreamError("timeout", f"the node {self._missing}"))
        else:
            self._look_by(due)

    def _notify(self) -> None:
        if self._wake and not self._wake.done():
            self._wake.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self._complete:
            self._error = error
        self.abort()
        self._notify()

    # --- the pool's view ---

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def answered(self) -> bool:
        return self._answered

    @property
    def head(self) -> Head:
        return self._head

    @property
    def _ends_with_connection(self) -> bool:
        """Neither length nor chunks: the body lasts as long as the connection."""
        headers = self._head.headers
        return "content-length" not in headers and "transfer-encoding" not in headers

    @property
    def is_reusable(self) -> bool:
        return self.is_open and self._complete and self._keep_alive and not self._chunks

    def rest(self) -> None:
        """Between two exchanges."""
        self._parser = None
        self.idle_since = self._loop.time()

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()
