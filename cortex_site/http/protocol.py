# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The HTTP server's protocol: from a client's socket to an `Application`, and back.

uvicorn accepts connections and stops the server. A request is answered by callbacks where its endpoint has
such (`cortex_site.http.answering`), by a task otherwise; without an ASGI message for every step in either
case. The chunks of a stream go to the client's transport from whichever callback has them (`ClientSink.put`).
A client that disconnects closes its answer or cancels its task.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, cast

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from h2.exceptions import ProtocolError
from uvicorn.protocols.utils import get_remote_addr

from cortex_site.base.certificate import HTTP2
from cortex_site.http.answering import Answering, Rest
from cortex_site.http.client_connection import TURN_BYTES, ClientConnection
from cortex_site.http.client_sink import ClientSink
from cortex_site.http.endings import linger
from cortex_site.http.flow import Flow
from cortex_site.http.http2_connection import PREFACE, Http2Connection, Upgraded
from cortex_site.http.http2_head import offered_settings
from cortex_site.http.parsed_request import NOTHING_READ, BadRequestError, ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, GoingOn, StreamResponse, fields_of
from cortex_site.http.states import BODY, HEAD, WAITING
from ext.stream import Outlet

log = logging.getLogger("cortex.http")

Serving = Callable[[], Coroutine[Any, Any, bool]]


class ServerProtocol(ClientConnection):
    """One client connection, and the `Asker` of its requests. It answers one at a time; pipelined ones wait.

    uvicorn creates it, calls `shutdown`, and watches connections and tasks in the shared `ServerState`. A
    request that is answered without a task is a task to it: the connection itself, which it may `cancel`.
    """

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._server.connections.add(self)  # type: ignore[arg-type]  # uvicorn lists its own classes
        self._transport = transport
        self._flow = Flow(transport)
        self._client = get_remote_addr(transport)
        self._reader.peer = self._client[0] if self._client else ""
        self._deadline.set(self._loop.time() + self._patience_s)
        tls = transport.get_extra_info("ssl_object")
        self._is_plain = tls is None
        if tls is not None and tls.selected_alpn_protocol() == HTTP2:
            self._speak_http2()

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            self._opening += data
            if PREFACE.startswith(self._opening[: len(PREFACE)]):
                if len(self._opening) >= len(PREFACE):
                    self._speak_http2().data_received(self._opening)
                return
            data, self._opening = self._opening, None
        if len(data) > TURN_BYTES:
            data = self._put_off(data)
        reader = self._reader
        before, num_unread = reader.state, reader.body_size
        requests = reader.feed(data)
        if reader.state is WAITING:
            self._latest = math.inf
        else:
            self._watch(before)
        self._hold(reader.body_size - num_unread)
        for request in requests:
            self._hold(len(request.body))
        if len(requests) == 1 and requests[0].upgrade and self._upgrade(requests[0]):
            return
        for request in requests:
            self._accept(request)
        if self._held.is_over and reader.state is BODY:
            self._refuse(self._application.overloaded())
        if self._request is None:
            self._send_continue()

    def resume_writing(self) -> None:
        self._flow.resume_writing()
        if self._answering is not None:
            self._answering.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._deadline.cancel()
        self._reader.close()
        self._pipelined.clear()
        self._unparsed = b""
        self._hold(-self._num_held)
        if self._answering is not None:
            self._answering.close()
            self._over()
        if self._task is not None:
            self._task.add_done_callback(self._server.tasks.discard)  # it may never begin
            self._task.cancel()

    def _on_due(self) -> None:
        if self._request is not None:
            return
        if self._reader.state is HEAD or self._reader.state is BODY:
            self._refuse(BadRequestError(408, "The request did not come to its end in time."))
        else:
            self._transport.close()

    def _refuse(self, refusal: Exception) -> None:
        self._hold(-self._reader.body_size)
        for request in self._reader.refuse(refusal):
            self._accept(request)

    # --- another protocol ---

    def _speak_http2(self, upgraded: Upgraded | None = None) -> Http2Connection:
        """Hand the connection over. Raises `h2.exceptions.ProtocolError` if the offer is none."""
        bounds = self._bounds.http2
        assert bounds is not None
        connection = Http2Connection(self._application, bounds, self._server, self._loop, self._patience_s)
        connection.begin(self._transport, upgraded)
        self._server.connections.discard(self)
        self._deadline.cancel()
        self._hold(-self._num_held)
        return connection

    def _upgrade(self, request: ParsedRequest) -> bool:
        """Answer a request in HTTP/2, as it offers (RFC 7540, 3.2), unless something stands against it."""
        if self._bounds.http2 is None or not self._is_plain or self._stopping:
            return False
        settings = offered_settings(request)
        is_alone = self._request is None and self._reader.state is WAITING and not self._unparsed
        if settings is None or not is_alone:
            return False
        try:
            self._speak_http2((request, settings))
        except ProtocolError:
            return False
        return True

    # --- one request ---

    def _accept(self, request: ParsedRequest) -> None:
        if self._request is None and not self._pipelined:
            self._begin(request)
            return
        self._pipelined.append(request)
        if self._pipelined.are_far_ahead:
            self._flow.pause_reading()

    def _accept_next(self) -> None:
        if self._request is None and self._pipelined:
            self._begin(self._pipelined.pop(0))

    def _begin(self, request: ParsedRequest) -> None:
        self._request = self._awaited = request
        endpoint = self._application.endpoint(request)
        answering = endpoint(request, self) if endpoint is not None else None
        if answering is None:
            self._start(request, partial(self._answer, request))
        else:
            self._answering = answering
            self._server.tasks.add(self)  # type: ignore[arg-type]  # see above
            answering.begin()

    # --- without a task ---

    def answer(self, lines: bytes, content: bytes) -> None:
        request = self._request
        assert request is not None
        more = self._application.finishing(request, len(content))
        if more is None or request.method == "HEAD":
            self.respond(BytesResponse(content, headers=fields_of(lines)))
            return
        self._over()
        keep_alive = request.keep_alive and not self._stopping
        self._awaited = None
        if self.is_open:
            self._transport.write(self._heads.whole(lines, more, content, keep_alive))
        if self._flow.write_paused:
            self._start(request, self._let_read)
        else:
            self._served(request, False, True)

    def stream(self, lines: bytes) -> Outlet:
        request = self._request
        assert request is not None
        chunked, keep_alive = request.version != "1.0", request.keep_alive and not self._stopping
        head = self._heads.streamed(lines, self._application.sharing(request), chunked, keep_alive)
        self._awaited = None
        self._forget(request)
        self._outlet = outlet = Outlet(self._transport.write, self._flow, chunked, head)
        return outlet

    def _forget(self, request: ParsedRequest) -> None:
        """Keep of a request whose stream may go on for long what its end needs."""
        self._hold(-len(request.body))
        self._request = request._replace(headers=NOTHING_READ.headers, body=b"")
        self._reader.forget_head()
        self._deadline.cancel()

    def end_stream(self) -> None:
        request, outlet = self._request, self._outlet
        assert request is not None and outlet is not None  # noqa: PT018
        self._over()
        outlet.end()
        if self._flow.write_paused:
            self._start(request, self._let_read)
        else:
            self._served(request, False, True)

    def respond(self, response: HttpResponseBase) -> None:
        request = self._request
        assert request is not None
        self._over()
        try:
            compressing = self._application.finish(request, response)
            if compressing is None:
                self._send(request, response)
        except Exception:
            log.exception("request failed")
            self._served(request, True, True)
            return
        if compressing is not None:
            self._start(request, partial(self._send_compressed, request, response, compressing))
        elif self._flow.write_paused:
            self._start(request, self._let_read)
        else:
            self._served(request, False, True)

    def hand_over(self, rest: Rest) -> None:
        answering, request = self._answering, self._request
        assert answering is not None and request is not None  # noqa: PT018
        self._over()
        self._handed_over = answering
        # It may be cancelled before it begins, and every answer ends.
        self._start(request, partial(self._answer, request, rest)).add_done_callback(
            partial(self._rested, answering)
        )

    def _rested(self, answering: Answering, task: asyncio.Task[None]) -> None:
        """See to the end of an answer whose task is over, unless it goes on without one."""
        if self._answering is not answering:
            answering.close()

    def _go_on(self, response: GoingOn) -> None:
        """Let the answer go on without its task, which ends."""
        self._server.tasks.discard(self._task)
        self._task = None
        self._answering, self._handed_over = self._handed_over, None
        self._server.tasks.add(self)  # type: ignore[arg-type]  # see above
        response.begin()

    def cancel(self, msg: object = None) -> None:
        """uvicorn waits no longer, and goes through its tasks: what was begun is answered after that."""
        self._loop.call_soon(self._stop)

    def _stop(self) -> None:
        if self._answering is not None:
            self._answering.stop()

    def _over(self) -> None:
        self._answering = self._outlet = None
        self._server.tasks.discard(self)

    # --- with a task ---

    def _start(self, request: ParsedRequest, serving: Serving) -> asyncio.Task[None]:
        self._task = task = self._loop.create_task(self._serve(request, serving))
        self._server.tasks.add(task)
        return task

    async def _serve(self, request: ParsedRequest, serving: Serving) -> None:
        """Serve a request by `serving`, which returns whether that went well."""
        task, failed = self._task, True
        assert task is not None
        try:
            failed = not await serving()
        finally:
            self._server.tasks.discard(task)
            if self._task is task:
                self._served(request, failed)

    def _answer(self, parsed: ParsedRequest, rest: Rest | None = None) -> Coroutine[Any, Any, bool]:
        request = Request(parsed, self._client, self._transport)
        return self._application.answer(request, partial(self._transmit, parsed), rest)

    async def _transmit(self, request: ParsedRequest, response: HttpResponseBase) -> None:
        if isinstance(response, GoingOn):
            self._go_on(response)
            return
        if isinstance(response, StreamResponse):
            await self._stream(request, response)
        else:
            self._send(request, response)
        if self._flow.write_paused:
            await self._let_read()

    async def _send_compressed(
        self, request: ParsedRequest, response: HttpResponseBase, compressing: Awaitable[None]
    ) -> bool:
        await compressing
        await self._transmit(request, response)
        return True

    def _send(self, parsed: ParsedRequest, response: HttpResponseBase) -> None:
        assert isinstance(response, BytesResponse | HttpResponse)
        content = response.content
        framing = f"content-length: {len(content)}\r\n"
        keep_alive = parsed.keep_alive and not self._stopping
        head = self._heads.make(response, framing, keep_alive)
        self._awaited = None
        self._transport.write(head if parsed.method == "HEAD" else head + content)

    async def _stream(self, parsed: ParsedRequest, response: StreamResponse) -> None:
        chunked = parsed.version != "1.0"
        keep_alive = parsed.keep_alive and not self._stopping
        try:
            framing = "transfer-encoding: chunked\r\n" if chunked else ""
            head = self._heads.make(response, framing, keep_alive)
            self._awaited = None
            self._transport.write(head)
            if parsed.method != "HEAD":
                sink = ClientSink(self._transport, self._flow, chunked=chunked)
                await response.produce(sink)
                sink.end()
        finally:
            response.on_close()

    def _served(self, parsed: ParsedRequest, failed: bool, soon: bool = False) -> None:
        """Go on to the next request: `soon` where it would be answered within this one, and so on."""
        self._request = self._task = self._awaited = self._handed_over = None
        self._server.total_requests += 1
        if self._transport.is_closing():
            return
        self._hold(-len(parsed.body))
        if parsed.refusal is not None:
            linger(self._transport, self._loop)
        elif failed or self._stopping or not parsed.keep_alive:
            self._transport.close()
        elif self._pipelined:
            if soon:
                self._loop.call_soon(self._accept_next)
            else:
                self._accept_next()
        elif self._has_eof:
            self._transport.close()
        else:
            if self._flow.read_paused and not self._unparsed:
                self._flow.resume_reading()
            self._deadline.set(min(self._loop.time() + self._patience_s, self._latest))
            self._send_continue()


# For the type checker: uvicorn asks for a class that says that it is a protocol, and a compiled one cannot.
HTTP_PROTOCOL = cast("type[asyncio.Protocol]", ServerProtocol)
