# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""One HTTP/1.1 connection to a node: the socket, and how long it may be silent.

An `AnswerReader` reads what arrives. Every failure is raised as an `UpstreamError`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import cast

from cortex_site.http.answer_reader import AnswerReader
from cortex_site.http.states import BODY, END, ERROR, WAITING
from ext.stream import Inlet, Tap
from fleet.gateway.http.body import BodyBuffer
from fleet.gateway.http.bounds import PoolBounds
from fleet.gateway.http.errors import UnansweredError, UpstreamError
from fleet.gateway.http.waiter import Listener, Waiter

HIGH_WATER_BYTES = 1 << 18  # body bytes held for a slow taker before the socket is paused
LARGE_BYTES = 1 << 16  # a request's body of this size is not copied to be sent together with its head
_NO_ANSWER = AnswerReader(END)  # to a connection that rests


class Connection:
    """One connection, for one exchange at a time: `send`, `head`, then `has_body` and `body.take`.

    Who does not wait in a task is told to look at it: `listen`, then `pour_into`.
    """

    def __init__(self, bounds: PoolBounds) -> None:
        self._bounds = bounds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter = Waiter(self._loop, self._on_silence)
        self.answer = _NO_ANSWER  # to the request under way
        self.body = BodyBuffer()
        self._tap: Tap | None = None  # gets body bytes as they come
        self._inlet: Inlet | None = None  # stands in for this protocol
        self._idle_since = self._loop.time()
        self._head_until = 0.0  # of the answer

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.body.attach(self._transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer.state is END:  # the node broke the protocol, but not the answer
            self.abort()
            return
        self.body.add(answer.feed(data))
        if answer.state is ERROR:
            self._fail(UpstreamError("protocol", answer.error))
        if self._tap is not None:
            self._pass_on(self._tap)
            if answer.state is BODY and not self.body.is_paused:
                self._waiter.put_off(self._loop.time() + self._bounds.idle_s)
                return  # without telling anybody
        elif self.body.size > HIGH_WATER_BYTES:
            self.body.pause()
        self._waiter.notify()

    def eof_received(self) -> None:
        """The node sends no more: the transport closes."""

    def pause_writing(self) -> None:
        """What is held of a request is the request, which is there anyway."""

    def resume_writing(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiter.close()
        is_unanswered = self.answer.state is WAITING
        self.answer.close()
        if self.answer.state is END:
            self._waiter.notify()
        elif is_unanswered:
            self._waiter.fail(UnansweredError("the node closed the connection before it answered"))
        else:
            self._waiter.fail(UpstreamError("closed", "the node closed the connection within the answer"))

    # --- one exchange ---

    def send(self, request: bytes, body: bytes) -> None:
        """Write a request. Raises `UnansweredError`."""
        if self._transport is None or self._transport.is_closing():
            raise UnansweredError("the node closed the kept connection")
        self.answer = AnswerReader()
        if len(body) < LARGE_BYTES:
            self._transport.write(request + body)
        else:
            self._transport.write(request)
            self._transport.write(body)
        # One deadline for the whole head: a head that trickles is as bad as none.
        self._head_until = self._loop.time() + self._bounds.first_byte_s

    async def head(self) -> None:
        """Wait for the head of the answer. Raises `UpstreamError`."""
        while not self.answer.status:
            await self._waiter.wait(self._head_until)

    def listen(self, listener: Listener | None) -> None:
        """Tell `listener` of what comes of the answer, or of its failure; nobody any more for None."""
        self._tap = None
        self._close_inlet()
        self._waiter.listen(listener, self._head_until)

    def failed(self) -> bool:
        return self._waiter.error is not None

    @property
    def error(self) -> Exception | None:
        """Why it failed."""
        return self._waiter.error

    # --- the body of an answer, by callbacks ---

    def pour_into(self, tap: Tap, listener: Listener) -> None:
        """Pass the body to `tap` as it comes. `listener` looks with `is_poured` whether that was all.

        If the tap wants no more, the socket is paused until `go_on`.
        """
        self._tap = tap
        self._waiter.listen(listener, self._loop.time() + self._bounds.idle_s)
        self.go_on()

    def go_on(self) -> None:
        """Let the tap have what comes: there is room."""
        self.body.resume()
        if self._tap is not None and self.answer.state is BODY:
            self._open_inlet(self._tap)
        self._waiter.notify()

    def is_poured(self) -> bool:
        """Pass on what has come. Return whether nothing more will: the body is whole, or `error` says why."""
        if self._tap is not None:
            self._pass_on(self._tap)
        is_over = self._waiter.error is not None or (self.answer.state is END and not self.body.size)
        return is_over and not self.body.is_paused

    # --- and for a task ---

    async def has_body(self) -> bool:
        """Wait for more of the body. Return False at its end. Raises `UpstreamError`."""
        while not self.body.size:
            if self.answer.state is END:
                return False
            self.body.resume()
            await self._waiter.wait(self._loop.time() + self._bounds.idle_s)
        return True

    def _pass_on(self, tap: Tap) -> None:
        if not self.body.size or self.body.is_paused:
            return
        try:
            if not tap.take(self.body.take(), time.monotonic()):
                self.body.pause()
        except Exception as error:  # noqa: BLE001 - who listens reads it
            self._fail(error)

    # --- a stream that runs, read by an `Inlet` ---

    def _open_inlet(self, tap: Tap) -> None:
        chunks = self.answer.chunks
        if chunks is not None and self._inlet is None and self._transport is not None:
            self._inlet = Inlet(chunks, tap, self, time.monotonic)
            self._transport.set_protocol(self._inlet)  # type: ignore[arg-type]  # it is one, compiled

    def _close_inlet(self) -> None:
        if self._inlet is not None:
            self._inlet = None
            if self._transport is not None:
                self._transport.set_protocol(self)  # type: ignore[arg-type]  # see above

    def on_full(self) -> None:
        self.body.pause()
        self._waiter.notify()

    def on_failed(self, error: Exception) -> None:
        self._fail(error)

    def on_stopped(self) -> None:
        self._close_inlet()
        self.body.add(self.answer.resume())
        if self.answer.state is ERROR:
            self._fail(UpstreamError("protocol", self.answer.error))
        self._waiter.notify()

    # --- ends ---

    def _on_silence(self) -> None:
        heard_until = self._inlet.heard_at + self._bounds.idle_s if self._inlet is not None else 0.0
        if heard_until > self._loop.time():
            self._waiter.put_off(heard_until)
        elif self.answer.state is BODY:
            self._fail(UpstreamError("timeout", "the node fell silent within the answer"))
        else:
            message = f"the node did not begin to answer within {self._bounds.first_byte_s:g} s"
            self._fail(UpstreamError("timeout", message))

    def _fail(self, error: Exception) -> None:
        self._waiter.fail(error)
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- the pool's view ---

    def may_send(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def is_fresh(self) -> bool:
        """Whether it is open still, and has not rested for so long that the node may be about to close it."""
        return self.may_send() and self._loop.time() - self._idle_since < self._bounds.keep_alive_s

    def is_lost_to(self, error: BaseException) -> bool:
        """Whether `error` came before the answer. Bytes that are none belonged to the answer before."""
        is_noise = isinstance(error, UpstreamError) and error.kind == "protocol" and not self.answer.status
        return is_noise or isinstance(error, UnansweredError)

    def may_be_kept(self) -> bool:
        """Whether it can carry another exchange."""
        return self.may_send() and self.answer.state is END and self.answer.keep_alive and not self.body.size

    def rest(self) -> None:
        """Make ready for the next exchange."""
        if self.body.is_paused:
            self.body.resume()
        self.answer = _NO_ANSWER  # the last one is freed while it is in the processor's cache
        self._idle_since = self._loop.time()


async def connect(host: str, port: int, tls: ssl.SSLContext | None, bounds: PoolBounds) -> Connection:
    """A new connection. Raises `UpstreamError`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(bounds.connect_s):
            _, connection = await loop.create_connection(
                lambda: cast("_Protocol", Connection(bounds)), host, port, ssl=tls
            )
    except TimeoutError as error:
        raise UpstreamError("connect", f"no connection within {bounds.connect_s:g} s") from error
    except OSError as error:
        raise UpstreamError("connect", f"no connection: {error.strerror or error}") from error
    return connection


class _Protocol(Connection, asyncio.Protocol):
    """What a compiled class that is no `asyncio.Protocol` is to the type checker."""
