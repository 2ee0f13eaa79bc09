"""One HTTP/1.1 connection to a node.

Answers of the ordinary kind are read by `ext.http`, all others by httptools' parser. Body bytes are read in
chunks (`chunks`), or poured into a function from the socket's own callback (`pour`); either way a slow reader
pauses the socket. Everything that goes wrong is an `UpstreamError`; foreign exceptions do not leave here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, cast

import httptools

from ext import http
from ext.stream import Inlet

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


class Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.Future[None] | None = None
        self._heard_at = self._patience_s = 0.0
        self._missing, self._limit_s = "", 0.0  # what a wait that takes longer lacks
        self._paused = False
        self._body: list[bytes] = []  # that came and was not taken
        self._buffered = 0  # bytes of it
        self._take: Callable[[bytes], bool] | None = None  # who gets body bytes as they come
        self._full = False  # `_take` wants no more for now
        self._inlet: Inlet | None = None  # that stands in for this protocol
        self.idle_since = 0.0
        self.rest()

    def rest(self) -> None:
        """Between two exchanges."""
        self._at_rest = True
        self.idle_since = self._loop.time()

    def _begin(self) -> None:
        self._at_rest = False
        self.status = 0  # once the head is there
        self.headers: dict[bytes, bytes] = {}  # by name in lower case
        self._head_size = 0
        self._head_seen = self._complete = False
        self._keep_alive = False
        self.answered = False  # at least one byte of this answer came
        self._parser: httptools.HttpResponseParser | None = None
        self._chunks: http.Chunks | None = None
        self._error: Exception | None = None
        if not self.is_open:
            self._error = UpstreamError("closed", "the node closed the kept connection")

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._inlet is not None:
            self._inlet.data_received(data)
            return
        if self._at_rest or self._complete:  # the server broke the protocol, but not the answer
            self._keep_alive = False
            self.abort()
            return
        self._heard_at = self._loop.time()
        first, self.answered = not self.answered, True
        if self._chunks is not None:
            self._read_chunks(self._chunks, data)
        elif not (first and http.COMPILED and self._read_at_once(data)):
            self._parse(data)
        if self._take is not None:
            if self._body and not self._full:
                self._pass_on(self._take)
            if not (self._full or self._complete or self._error):
                return
        elif self._buffered > HIGH_WATER_BYTES:
            self._pause()
        self._notify()

    def _read_at_once(self, data: bytes) -> bool:
        """A whole answer of the ordinary kind, or the head of a chunked one; False: read on in full."""
        head = http.answer(data)
        if head is None or not (head.chunked or head.size + head.length == len(data)):
            return False
        self.status, self.headers, self._head_seen = head.status, head.headers, True
        self._keep_alive = head.keep_alive
        if not head.chunked:
            self._complete = True
            self.on_body(data[head.size :])
            return True
        self._chunks = http.Chunks()
        if len(data) > head.size:
            self._read_chunks(self._chunks, data[head.size :])
        return True

    def _read_chunks(self, chunks: http.Chunks, data: bytes) -> None:
        if body := chunks.feed(data):
            self.on_body(body)
        if chunks.stopped:
            self._stop_chunks(chunks)

    def _stop_chunks(self, chunks: http.Chunks) -> None:
        if chunks.ended:
            self._complete, self._keep_alive = True, self._keep_alive and not chunks.rest
        elif chunks.odd:
            self._chunks, more = None, b"" if self._keep_alive else b"connection: close\r\n"
            self._parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%b\r\n" % more + chunks.rest)
        elif chunks.broken:
            self._fail(UpstreamError("protocol", "not an HTTP answer: a chunk is longer than it said"))

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(UpstreamError("protocol", f"not an HTTP answer: {error}"))
        if not self._head_seen:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._fail(UpstreamError("protocol", f"the answer's head is over {MAX_HEAD_BYTES} bytes"))

    def _pass_on(self, take: Callable[[bytes], bool]) -> None:
        """What has come to the taker, from the socket's own callback; a taker that fails ends the answer."""
        try:
            self._full = not take(self._take_all())
        except Exception as error:  # noqa: BLE001 - raised by `pour`, where its owner waits
            self._fail(error)
        if self._full:
            self._pause()

    # --- a stream that runs, read by an `Inlet` ---

    def _open_inlet(self, chunks: http.Chunks, take: Callable[[bytes], bool]) -> None:
        assert self._transport is not None
        self._inlet = Inlet(chunks, take, self, time.monotonic)
        self._transport.set_protocol(self._inlet)  # type: ignore[arg-type]  # it is one, compiled

    def _close_inlet(self) -> None:
        if self._inlet is not None:
            self._heard_at, self._inlet = self._inlet.heard_at, None
            if self._transport is not None:
                self._transport.set_protocol(self)

    def on_full(self) -> None:
        self._full = True
        self._pause()
        self._notify()

    def on_failed(self, error: Exception) -> None:
        self._fail(error)

    def on_stopped(self) -> None:
        assert self._chunks is not None
        self._close_inlet()
        self._stop_chunks(self._chunks)
        self._notify()

    # --- the end of a connection ---

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end_timer()
        if self._at_rest or self._complete:
            return
        if self._head_seen and self._ends_with_connection:
            self._complete = True
        elif self._error is None:
            when = "within the answer" if self.answered else "before it answered"
            self._error = UpstreamError("closed", f"the node closed the connection {when}")
        self._notify()

    # --- httptools callbacks ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_seen:
            self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200 and not self._head_seen:  # 1xx heads announce the real one
            self.status, self._head_seen = status, True

    def on_message_begin(self) -> None:
        if self._complete:  # more than one answer to one request
            raise UpstreamError("protocol", "the node sent more than its answer")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_seen:
            assert self._parser is not None
            # The parser says so while it ends a message, and only then.
            self._complete, self._keep_alive = True, self._parser.should_keep_alive()
        else:
            self.headers, self._head_size = {}, 0

    # --- one exchange ---

    async def send(self, request: bytes, body: bytes) -> None:
        """Write a request and wait for the head of its answer."""
        self._begin()
        if self._transport and not self._error:
            # One write for the common small body; a large one is not copied to be joined.
            self._transport.write(request + body if len(body) < 1 << 16 else request)
            if len(body) >= 1 << 16:
                self._transport.write(body)
        limit_s = self._limits.first_byte_s
        deadline = self._loop.time() + limit_s
        while not self._head_seen:  # in all: a head that trickles is as bad as none
            await self._wait(deadline - self._loop.time(), "did not begin to answer", limit_s)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, everything that is there at once."""
        while True:
            if self._body:
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
        while not self._complete or self._body:
            if self._body:
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
        if self._body:
            self._pass_on(take)
        if self._chunks is not None and not self._complete and self.is_open:
            self._open_inlet(self._chunks, take)
        try:
            while True:
                if self._body and not self._full:
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
            self._close_inlet()
            self._take, self._full = None, False

    def _take_all(self) -> bytes:
        body, self._body, self._buffered = self._body, [], 0
        return body[0] if len(body) == 1 else b"".join(body)

    def _pause(self) -> None:
        if self._transport and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport and self._paused:
            self._paused = False
            self._transport.resume_reading()

    async def _wait(self, seconds: float, what: str, limit_s: float = 0.0) -> None:
        """Until something arrives; body bytes that came before a failure are read before it is raised.

        In `pour` the silence is measured from the last byte.
        """
        if self._error:
            raise self._error
        self._heard_at, self._patience_s = self._loop.time(), seconds
        self._missing, self._limit_s = what, limit_s
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
        heard_at = self._heard_at if self._inlet is None else self._inlet.heard_at
        due = heard_at + self._patience_s
        if self._wake is None:
            return
        if due <= self._loop.time():
            within = f" within {self._limit_s:g} s" if self._limit_s else ""
            self._fail(UpstreamError("timeout", f"the node {self._missing}{within}"))
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
    def _ends_with_connection(self) -> bool:
        """Neither length nor chunks: the body lasts as long as the connection."""
        return b"content-length" not in self.headers and b"transfer-encoding" not in self.headers

    @property
    def is_reusable(self) -> bool:
        return self.is_open and self._complete and self._keep_alive and not self._body

    def abort(self) -> None:
        if self._transport:
            self._transport.abort()
