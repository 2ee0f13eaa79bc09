"""A shorter way from uvicorn's sockets to a `LightASGI` application.

uvicorn accepts, times out kept connections and stops; this subclass of its HTTP protocol gathers a request,
starts one task for it and writes the answer, without an ASGI message for every step. A stream's chunks go to
the client's transport from whichever callback has them (`ClientSink.put`). A client that leaves cancels its
task.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from ninja.errors import HttpError
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cortex_site.http.application import BytesResponse, LightASGI, LightRequest, Scope, StreamResponse
from ext import http
from ext.stream import Outlet

log = logging.getLogger("cortex.http")

MAX_HEAD_BYTES = 1 << 16
MAX_AHEAD, MAX_AHEAD_BYTES = 16, 1 << 18  # requests that wait for one before; with more nothing is read
LINGER_S = 2.0  # a client that is still sending may read its refusal for so long
_NO_REQUEST: Scope = {"method": "", "path": "/", "headers": [], "http_version": "1.1"}
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class ClientSink(Outlet):
    """One answer's way to its client: HTTP chunks, or bare bytes for a client of HTTP/1.0."""

    def __init__(self, transport: asyncio.Transport, flow: FlowControl, *, chunked: bool) -> None:
        super().__init__(transport.write, flow, chunked)
        self._transport = transport

    async def drain(self) -> None:
        await self.flow.drain()

    async def __call__(self, chunk: bytes) -> None:
        if not self.put(chunk):
            await self.drain()

    def end(self) -> None:
        if self.chunked:
            self._transport.write(b"0\r\n\r\n")

    @property
    def is_open(self) -> bool:
        """False once the client has left."""
        return not self._transport.is_closing()


class LightProtocol(HttpToolsProtocol):
    """One client connection. It answers one request at a time; pipelined ones wait."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not isinstance(self.app, LightASGI):
            raise TypeError("LightProtocol serves a LightASGI application")
        self._light = self.app
        self._task: asyncio.Task[None] | None = None
        self._pipelined: deque[tuple[LightRequest, HttpError | None]] = deque()
        self._scope: Scope = {}
        self._parts: list[bytes] = []
        self._size = 0  # of the head while it comes, then of the body
        self._receiving = self._head_done = False
        self._error: HttpError | None = None  # why the request that is coming is refused
        self._keep_alive = True
        self._lingering = False
        self._idle_until = 0.0
        self._defaults: tuple[list[tuple[bytes, bytes]] | None, bytes] = (None, b"")

    # --- a connection's life ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unset_keepalive_if_required()
        self._look_in(self.timeout_keep_alive)

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._error is not None:  # refused: nothing that follows is read
            return
        if http.COMPILED and not self._receiving and self._read_at_once(data):
            return
        super().data_received(data)
        if self._receiving and not self._head_done:
            self._size += len(data)
            if self._size > MAX_HEAD_BYTES:
                self.send_400_response(f"The request's head is over {MAX_HEAD_BYTES} bytes.")

    def _read_at_once(self, data: bytes) -> bool:
        """One whole request of the ordinary kind, which is what most clients send; False: read on in full."""
        head = http.request(data)
        if head is None or head.size + head.length != len(data) or head.length > self._light.max_body_bytes:
            return False
        if not head.keep_alive:
            self._keep_alive = False
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": head.method,
            "path": head.path,
            "query_string": head.query,
            "client": self.client,
        }
        self._accept(LightRequest(scope, data[head.size :], head.headers), None)
        return True

    def send_400_response(self, msg: str) -> None:
        """After the answer that is being written, if there is one: never into it."""
        self._scope = _NO_REQUEST
        self._refuse(HttpError(400, msg))

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        super()._unset_keepalive_if_required()
        self._pipelined.clear()
        self._parts = []
        if self._task is not None:
            self._task.add_done_callback(self.tasks.discard)  # it may never begin
            self._task.cancel()
        self.parser = None

    def shutdown(self) -> None:
        """The server stops: a running answer is the last one."""
        self._keep_alive = False
        if self._task is None and not self._receiving:
            self.transport.close()

    # --- httptools callbacks ---

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._parts, self._size, self._error = [], 0, None
        self._receiving, self._head_done = True, False

    def on_headers_complete(self) -> None:
        self._head_done, self._size = True, 0
        self._keep_alive &= self.parser.should_keep_alive()
        self._scope = {
            "type": "http",
            "http_version": self.parser.get_http_version(),
            "method": self.parser.get_method().decode("ascii"),
            "headers": self.headers,
            "client": self.client,
        }
        try:
            url = httptools.parse_url(self.url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
            self._scope |= {"path": "/", "query_string": b""}
            self._refuse(HttpError(400, "The request's URL is malformed."))
            return
        self._scope["path"] = unquote(path) if "%" in path else path
        self._scope["query_string"] = url.query or b""
        if error := self._light.too_large(self.headers):
            self._refuse(error)
        elif self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._error is None:
            self._parts.append(body)
            self._size += len(body)
            if self._size > self._light.max_body_bytes:
                self._refuse(self._light.body_limit)

    def on_message_complete(self) -> None:
        self._receiving = self._head_done = False
        self._size = 0
        if self._error is None:
            parts, self._parts = self._parts, []
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._accept(LightRequest(self._scope, body), None)

    def _refuse(self, error: HttpError) -> None:
        """Answer before the body is read; the connection ends with that."""
        self._error, self._parts, self._keep_alive = error, [], False
        self._accept(LightRequest(self._scope, b""), error)

    # --- answers ---

    def _accept(self, request: LightRequest, error: HttpError | None) -> None:
        if self._task is not None:
            self._pipelined.append((request, error))
            if self._is_far_ahead:
                self.flow.pause_reading()
            return
        request.transport = self.transport
        self._task = self.loop.create_task(self._serve(request, error))
        self.tasks.add(self._task)

    @property
    def _is_far_ahead(self) -> bool:
        """Reading goes on until then, for only who reads hears that the client left."""
        waiting = self._pipelined
        return len(waiting) >= MAX_AHEAD or sum(len(item.body) for item, _ in waiting) > MAX_AHEAD_BYTES

    async def _serve(self, request: LightRequest, error: HttpError | None) -> None:
        task, failed = self._task, True
        assert task is not None
        try:
            response = await self._respond(request) if error is None else self._light.refuse(request, error)
            if isinstance(response, StreamResponse):
                await self._stream(request, response)
            else:
                assert isinstance(response, BytesResponse | HttpResponse)
                self._send(request, response)
            failed = False
        except Exception:
            log.exception("request failed")
        finally:
            self.tasks.discard(task)
            self._served(failed=failed)

    async def _respond(self, request: LightRequest) -> HttpResponseBase:
        try:
            return await self._light.respond(request)
        except asyncio.CancelledError:
            if not request.is_open:
                raise
            self._keep_alive = False
            return self._light.refuse(request, HttpError(503, "The server was stopped within the answer."))

    def _send(self, request: LightRequest, response: BytesResponse | HttpResponse) -> None:
        content = response.content
        head = self._head(response, f"content-length: {len(content)}\r\n")
        self.transport.write(head if request.method == "HEAD" else head + content)

    async def _stream(self, request: LightRequest, response: StreamResponse) -> None:
        chunked = request.scope["http_version"] != "1.0"
        try:
            self.transport.write(self._head(response, "transfer-encoding: chunked\r\n" if chunked else ""))
            sink = ClientSink(self.transport, self.flow, chunked=chunked)
            await response.produce(sink)
            sink.end()
        finally:
            response.on_close()

    def _head(self, response: HttpResponseBase, framing: str) -> bytes:
        lines = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        status = _STATUS_LINES.get(response.status_code) or f"HTTP/1.1 {response.status_code} \r\n"
        close = "" if self._keep_alive else "connection: close\r\n"
        return f"{status}{lines}{close}{framing}".encode("latin-1") + self._default_lines()

    def _default_lines(self) -> bytes:
        """uvicorn's own headers, which it makes anew now and then, and the empty line."""
        defaults, lines = self._defaults
        if defaults is not self.server_state.default_headers:
            defaults = self.server_state.default_headers
            lines = b"".join(b"%b: %b\r\n" % header for header in defaults) + b"\r\n"
            self._defaults = defaults, lines
        return lines

    def _served(self, *, failed: bool) -> None:
        self._task = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._error is not None and self._receiving:
            self._linger()
        elif failed or not self._keep_alive:
            self.transport.close()
        elif self._pipelined:
            self._accept(*self._pipelined.popleft())
        else:
            self.flow.resume_reading()
            self._idle_until = self.loop.time() + self.timeout_keep_alive
            self._look_in(self.timeout_keep_alive)

    # --- silent connections: one timer each, kept from request to request, that looks when it is due ---

    def _look_in(self, seconds: float) -> None:
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Called by uvicorn for what it receives, so that who stops within a request is let go as well."""
        self._idle_until = self.loop.time() + self.timeout_keep_alive

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        left = self._idle_until - self.loop.time()
        if self._task is not None:  # answering; looked at again when that is done
            return
        if left <= 0:
            super().timeout_keep_alive_handler()
        else:
            self._look_in(left)

    def _linger(self) -> None:
        """Closing on unread bytes would reset the connection, and the answer with it."""
        self._lingering = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
