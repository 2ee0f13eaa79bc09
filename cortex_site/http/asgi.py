"""ASGI: reads a request from its messages, writes a response as messages, and runs the lifespan."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from cortex_site.http.parsed_request import BadRequestError, ParsedRequest, check_length, too_large
from cortex_site.http.response import BytesResponse, StreamResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("cortex.http")


class ClientGoneError(Exception):
    """The client closed its connection before its request was complete."""


async def read_request(scope: Scope, receive: Receive, max_body_bytes: int) -> ParsedRequest:
    """Return the request, with a refusal if its body is too large. Raises `ClientGoneError`."""
    parsed = ParsedRequest(
        method=scope["method"],
        path=scope["path"],
        query=scope.get("query_string", b""),
        version=scope.get("http_version", "1.1"),
        headers=dict(reversed(scope["headers"])),
    )
    try:
        check_length(parsed.headers, max_body_bytes)
        return parsed._replace(body=await _read_body(receive, max_body_bytes))
    except BadRequestError as refusal:
        return parsed._replace(refusal=refusal)


async def _read_body(receive: Receive, max_body_bytes: int) -> bytes:
    parts, size = [], 0
    while (message := await receive())["type"] == "http.request":
        part = message.get("body", b"")
        size += len(part)
        if size > max_body_bytes:
            raise too_large(max_body_bytes)
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
    raise ClientGoneError


class AsgiLine:
    """The `Line` of a request: it is open until the server says that the client has disconnected."""

    def __init__(self) -> None:
        self._has_left = False

    def is_closing(self) -> bool:
        return self._has_left

    async def cancel_on_disconnect(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        task.cancel()


async def send_response(
    response: HttpResponseBase, send: Send, line: AsgiLine, *, head_only: bool = False
) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.items()]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    if not isinstance(response, StreamResponse):
        assert isinstance(response, BytesResponse | HttpResponse)
        content = response.content
        headers.append((b"content-length", b"%d" % len(content)))
        await send(start)
        await send({"type": "http.response.body", "body": b"" if head_only else content})
        return

    try:
        await send(start)
        if not head_only:
            sink = _AsgiSink(send, line)
            await response.produce(sink)
            await sink.drain()
        await send({"type": "http.response.body", "body": b""})
    finally:
        response.on_close()


class _AsgiSink:
    """A `Sink` on any ASGI server: `put` keeps chunks until `drain`."""

    def __init__(self, send: Send, line: AsgiLine) -> None:
        self._send = send
        self._line = line
        self._unsent: list[bytes] = []

    @property
    def is_open(self) -> bool:
        return not self._line.is_closing()

    def put(self, chunk: bytes) -> bool:
        self._unsent.append(chunk)
        return False

    async def drain(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent:
            await self._send({"type": "http.response.body", "body": b"".join(unsent), "more_body": True})

    async def __call__(self, chunk: bytes) -> None:
        self.put(chunk)
        await self.drain()


async def run_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[Any]], receive: Receive, send: Send
) -> None:
    await receive()
    phase = "startup"
    try:
        async with lifespan():
            phase = "shutdown"
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except Exception as error:  # the server must hear of it, whatever it was
        log.exception("lifespan failed")
        await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
        return
    await send({"type": "lifespan.shutdown.complete"})
