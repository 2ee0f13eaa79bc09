"""How an endpoint answers without a task: it is told of events, and tells the client its answer.

An operation of the API that has an `Endpoint` (`begun_by`) is begun by the protocol itself. An answer that
has to wait for something else than the events of its own sockets leaves the rest to a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from django.http.response import HttpResponseBase

from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, GoingOn, Sink, StreamResponse, fields_of
from ext.stream import Outlet

Rest = Callable[[], Coroutine[Any, Any, HttpResponseBase]]


class Asker(Protocol):
    """Who sent a request. One of `answer`, `stream`, `respond` and `hand_over` is called, once."""

    @property
    def is_open(self) -> bool:
        """False once the client has disconnected."""

    def answer(self, lines: bytes, content: bytes) -> None:
        """Send what an ordinary request gets: a 200 with these headers, each a line with its CRLF."""

    def stream(self, lines: bytes) -> Outlet:
        """Begin a stream: a 200 with these headers. `end_stream` follows.

        Return where its pieces go. The head goes with the first of them, if it is not flushed before.
        """

    def end_stream(self) -> None:
        """End what `stream` has begun."""

    def respond(self, response: HttpResponseBase) -> None:
        """Send any other response."""

    def hand_over(self, rest: Rest) -> None:
        """Let a task make the response: something has to be waited for.

        The answer may go on without it after that (`GoingOn`).
        """


class Answering(Protocol):
    """An answer that is being made."""

    def begin(self) -> None:
        """Go as far as nothing has to be waited for."""

    def go_on(self) -> None:
        """The client has read what it got of a stream: there is room for more."""

    def close(self) -> None:
        """The client has left. Harmless once the answer has ended."""

    def stop(self) -> None:
        """This worker stops: respond at once."""


Endpoint = Callable[[ParsedRequest | Request, Asker], Answering | None]
_Operation = TypeVar("_Operation", bound=Callable[..., Any])


def begun_by(endpoint: Endpoint) -> Callable[[_Operation], _Operation]:
    """Return a decorator of an operation that `endpoint` answers as well, unless that returns None."""

    def mark(operation: _Operation) -> _Operation:
        operation.endpoint = endpoint  # type: ignore[attr-defined]
        return operation

    return mark


class Awaited:
    """An `Asker` for whom a task waits: one that has to be asked, and cannot be told."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._response: HttpResponseBase | None = None
        self._rest: Rest | None = None
        self._written: WrittenStream | None = None

    @property
    def is_open(self) -> bool:
        return self._request.is_open

    def answer(self, lines: bytes, content: bytes) -> None:
        self.respond(BytesResponse(content, headers=fields_of(lines)))

    def stream(self, lines: bytes) -> Outlet:
        self._written = written = WrittenStream(self._answering)
        self.respond(StreamResponse(written.send, headers=fields_of(lines), on_close=self._answering.close))
        return Outlet(written.write, written, False)

    def end_stream(self) -> None:
        assert self._written is not None
        self._written.end()

    def respond(self, response: HttpResponseBase) -> None:
        self._response = response
        self._wake()

    def hand_over(self, rest: Rest) -> None:
        self._rest = rest
        self._wake()

    def _wake(self) -> None:
        if not self._come.done():
            self._come.set_result(None)

    async def response(self, answering: Answering) -> HttpResponseBase:
        """Return the response. A task that is cancelled while its client is there responds as well."""
        self._answering = answering
        answering.begin()
        try:
            await self._come
        except asyncio.CancelledError:
            if not self.is_open:
                answering.close()
                raise
            answering.stop()
        else:
            if self._rest is not None:
                await self._go_on(self._rest)
        if self._response is None:  # the client left before its stream began
            raise asyncio.CancelledError
        return self._response

    async def _go_on(self, rest: Rest) -> None:
        response = await rest()
        if isinstance(response, GoingOn):
            response.begin()
        else:
            self._response = response


class WrittenStream:
    """A stream that is written by callbacks and sent by a task, which wakes only where it has to wait."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._held = bytearray()  # until it is sent
        self._sink: Sink | None = None
        self._news = asyncio.Event()
        self._has_ended = False
        self.write_paused = False

    def write(self, data: bytes) -> None:
        if self._sink is None:
            self._held += data
        if self._sink is None or not self._sink.put(data):
            self.write_paused = True
            self._news.set()

    def end(self) -> None:
        self._has_ended = True
        self._news.set()

    async def send(self, sink: Sink) -> None:
        """Send what is written, to the end."""
        self._sink = sink
        try:
            await self._send(sink)
        except asyncio.CancelledError:
            if not sink.is_open:
                raise
            self._answering.stop()

    async def _send(self, sink: Sink) -> None:
        await sink(bytes(self._held))
        while not self._has_ended:
            self._news.clear()
            await sink.drain()
            self.write_paused = False
            self._answering.go_on()
            await self._news.wait()
