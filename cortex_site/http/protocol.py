"""The HTTP server's protocol: from a client's socket to an `Application`, and back.

uvicorn accepts connections and stops the server. One task answers a request, without an ASGI message for
every step; the chunks of a stream go to the client's transport from whichever callback has them
(`ClientSink.put`). A client that disconnects cancels its task.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from contextlib import suppress
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from cortex_site.http.application import Application
from cortex_site.http.client_sink import ClientSink
from cortex_site.http.deadline import Deadline
from cortex_site.http.parsed_request import BadRequestError, ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.request_reader import RequestReader
from cortex_site.http.response import BytesResponse, StreamResponse
from cortex_site.http.response_head import ResponseHeads
from cortex_site.http.states import BODY, HEAD, WAITING, ReadState

log = logging.getLogger("cortex.http")

MAX_AHEAD, MAX_AHEAD_BYTES = 16, 1 << 18  # pipelined requests that may wait; with more, reading stops
LINGER_S = 2.0  # a client that is still sending has this long to read its refusal
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
PROBE_S, MAX_PROBE_S = 0.1, 5.0  # between two looks at whether a client that ended its sending is still there
LAST_CALL_S = 1.0  # after a stop, an idle connection may still bring a request that was on its way


class ServerProtocol(asyncio.Protocol):
    """One client connection. It answers one request at a time; pipelined ones wait.

    uvicorn creates it, calls `shutdown`, and watches connections and tasks in the shared `ServerState`.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not isinstance(config.loaded_app, Application):
            raise TypeError("ServerProtocol serves an Application")
        self._application = config.loaded_app
        self._bounds = config.loaded_app.bounds
        self._held = config.loaded_app.held
        self._loop = _loop or asyncio.get_running_loop()
        self._server = server_state
        self._patience_s = config.timeout_keep_alive
        self._deadline = Deadline(self._loop, self._on_due)
        self._latest = math.inf  # when the head or body under way must be there
        self._reader = RequestReader(self._bounds.max_body_bytes, self._judge)
        self._num_held = 0  # bytes of bodies, from this connection
        self._heads = ResponseHeads(server_state)
        self._pipelined: deque[ParsedRequest] = deque()
        self._task: asyncio.Task[None] | None = None  # that answers
        self._awaited: ParsedRequest | None = None  # under way, and nothing of its answer is sent yet
        self._has_eof = False  # the client sends no more
        self._stopping = False  # the answer under way is the last one

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        self._transport = transport
        self._flow = FlowControl(transport)
        self._client = get_remote_addr(transport)
        self._deadline.set(self._loop.time() + self._patience_s)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        before, num_unread = reader.state, reader.body_size
        requests = reader.feed(data)
        if reader.state is WAITING:
            self._latest = math.inf
        else:
            self._watch(before)
        self._hold(reader.body_size - num_unread + sum(len(request.body) for request in requests))
        for request in requests:
            self._accept(request)
        if self._held.is_over and reader.state is BODY:
            self._refuse(self._application.overloaded())
        if self._task is None:
            self._send_continue()

    def _watch(self, before: ReadState) -> None:
        """Give what has begun its time: a head from its first byte on, a body from the head's last."""
        now, state = self._loop.time(), self._reader.state
        if state is not before:
            self._latest = now + (self._bounds.body_s if state is BODY else self._bounds.head_s)
        self._deadline.set(min(now + self._patience_s, self._latest))

    def _hold(self, size: int) -> None:
        """Count bytes of bodies that this connection holds, or no more if negative."""
        self._num_held += size
        self._held.total += size

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def shutdown(self) -> None:
        """The server stops: a request that has begun, or is on its way already, is still answered."""
        self._stopping = True
        if self._task is None and self._reader.state is WAITING:
            self._deadline.set(self._loop.time() + LAST_CALL_S)

    def eof_received(self) -> bool:
        """Go on for a client that waits for an answer and has no more to send.

        One that has left says the same, so the connection is probed until the answer begins. Later, and in
        HTTP/1.0 and over TLS, where nothing can be sent that is no part of the answer, it counts as left.
        """
        awaited = self._awaited
        if awaited is None or awaited.version == "1.0" or not self._transport.can_write_eof():
            return False
        self._has_eof = True
        self._probe(PROBE_S)
        return True

    def _probe(self, again_s: float) -> None:
        """Write what clients of HTTP/1.1 pass over (RFC 9110, 15.2); one that left sends a reset."""
        if self._transport.is_closing():
            return
        if self._awaited is not None:
            self._transport.write(PROCESSING)
        self._loop.call_later(again_s, self._probe, min(2 * again_s, MAX_PROBE_S))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._deadline.cancel()
        self._reader.close()
        self._pipelined.clear()
        self._hold(-self._num_held)
        if self._task is not None:
            self._task.add_done_callback(self._server.tasks.discard)  # it may never begin
            self._task.cancel()

    def _on_due(self) -> None:
        if self._task is not None:
            return
        if self._reader.state is HEAD or self._reader.state is BODY:
            self._refuse(BadRequestError(408, "The request did not come to its end in time."))
        else:
            self._transport.close()

    def _judge(self, parsed: ParsedRequest) -> Exception | None:
        return self._application.judge(Request(parsed, self._client, self._transport))

    def _refuse(self, refusal: Exception) -> None:
        self._hold(-self._reader.body_size)
        for request in self._reader.refuse(refusal):
            self._accept(request)

    # --- one request ---

    def _accept(self, request: ParsedRequest) -> None:
        if self._task is None:
            self._awaited = request
            self._task = self._loop.create_task(self._serve(request))
            self._server.tasks.add(self._task)
            return
        self._pipelined.append(request)
        if self._is_far_ahead:
            self._flow.pause_reading()

    @property
    def _is_far_ahead(self) -> bool:
        """Reading goes on until then, because only reading shows that the client has left."""
        waiting = self._pipelined
        return len(waiting) >= MAX_AHEAD or sum(len(item.body) for item in waiting) > MAX_AHEAD_BYTES

    async def _serve(self, parsed: ParsedRequest) -> None:
        task, failed, response = self._task, True, None
        assert task is not None
        request = Request(parsed, self._client, self._transport)
        try:
            response = await self._respond(request)
            if (compressing := self._application.finish(request, response)) is not None:
                await compressing
            if isinstance(response, StreamResponse):
                await self._stream(parsed, response)
            else:
                assert isinstance(response, BytesResponse | HttpResponse)
                self._send(parsed, response)
            if self._flow.write_paused:
                await self._let_read()
            failed = False
        except Exception:
            log.exception("request failed")
        finally:
            self._server.tasks.discard(task)
            self._application.ended(request, response)
            self._served(parsed, failed=failed)

    async def _let_read(self) -> None:
        """Wait until the client has read most of its answer: the next would only grow on top of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                await self._flow.drain()
                return
        self._transport.abort()

    async def _respond(self, request: Request) -> HttpResponseBase:
        try:
            return await self._application.respond(request)
        except asyncio.CancelledError:
            if not request.is_open:
                raise
            self._stopping = True
            return self._application.refuse(request, 503, "The server was stopped within the answer.")

    def _send(self, parsed: ParsedRequest, response: BytesResponse | HttpResponse) -> None:
        content = response.content
        framing = f"content-length: {len(content)}\r\n"
        keep_alive = parsed.keep_alive and not self._stopping
        head = self._heads.make(response, framing, keep_alive=keep_alive)
        self._awaited = None
        self._transport.write(head if parsed.method == "HEAD" else head + content)

    async def _stream(self, parsed: ParsedRequest, response: StreamResponse) -> None:
        chunked = parsed.version != "1.0"
        keep_alive = parsed.keep_alive and not self._stopping
        try:
            framing = "transfer-encoding: chunked\r\n" if chunked else ""
            head = self._heads.make(response, framing, keep_alive=keep_alive)
            self._awaited = None
            self._transport.write(head)
            if parsed.method != "HEAD":
                sink = ClientSink(self._transport, self._flow, chunked=chunked)
                await response.produce(sink)
                sink.end()
        finally:
            response.on_close()

    def _served(self, parsed: ParsedRequest, *, failed: bool) -> None:
        self._task = self._awaited = None
        self._server.total_requests += 1
        if self._transport.is_closing():
            return
        self._hold(-len(parsed.body))
        if parsed.refusal is not None:
            self._linger()
        elif failed or self._stopping or not parsed.keep_alive:
            self._transport.close()
        elif self._pipelined:
            self._accept(self._pipelined.popleft())
        elif self._has_eof:
            self._transport.close()
        else:
            self._flow.resume_reading()
            self._deadline.set(min(self._loop.time() + self._patience_s, self._latest))
            self._send_continue()

    def _send_continue(self) -> None:
        """Called between two answers: a `100 Continue` must not get into one."""
        if self._reader.awaits_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _linger(self) -> None:
        """Closing on unread bytes would reset the connection, and the answer with it."""
        if self._transport.can_write_eof():  # not over TLS, where `connection: close` has to do
            self._transport.write_eof()
        self._loop.call_later(LINGER_S, self._transport.close)
