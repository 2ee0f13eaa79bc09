"""The answer to a request of HTTP/2 whose endpoint makes it by callbacks."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from cortex_site.http.answering import Answering, Rest
from cortex_site.http.application import Application
from cortex_site.http.http2_stream import Http2Stream
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.response import BytesResponse, GoingOn, Response, fields_of
from ext.stream import Outlet


class Serving(Protocol):
    """What a connection does for the answers on it."""

    tasks: set[Any]  # uvicorn waits for them, and then cancels them

    def start(
        self, stream: Http2Stream, request: ParsedRequest, rest: Rest | None = None
    ) -> asyncio.Task[None]:
        """Let a task answer."""

    def let_read(self, stream: Http2Stream) -> None:
        """Hear that all of an answer is said, which its client may have to read yet."""


class Http2Answer:
    """The `Asker` of one request. To uvicorn it is the task that answers."""

    def __init__(
        self, application: Application, serving: Serving, stream: Http2Stream, request: ParsedRequest
    ) -> None:
        self._application = application
        self._serving = serving
        self._stream = stream
        self._request = request
        self._answering: Answering | None = None
        self._handed_over: Answering | None = None  # while a task goes on with it

    def begin(self, answering: Answering) -> None:
        self._begin(answering)
        answering.begin()

    def _begin(self, answering: Answering) -> None:
        self._answering = answering
        self._stream.answerer = self
        self._serving.tasks.add(self)

    def _over(self) -> None:
        self._answering = self._stream.answerer = None
        self._serving.tasks.discard(self)

    # --- what its client does ---

    @property
    def is_open(self) -> bool:
        return not self._stream.is_closing()

    def go_on(self) -> None:
        if self._answering is not None:
            self._answering.go_on()

    def close(self) -> None:
        """The client is not there any more."""
        if (answering := self._answering) is not None:
            self._over()
            answering.close()

    # --- the answer ---

    def answer(self, lines: bytes, content: bytes) -> None:
        self.respond(BytesResponse(content, headers=fields_of(lines)))

    def stream(self, lines: bytes) -> Outlet:
        lines += self._application.sharing(self._request)
        self._stream.begin(Response(200, fields_of(lines)))
        return Outlet(self._stream.put, self._stream, False)

    def end_stream(self) -> None:
        self._over()
        self._stream.finish()
        self._serving.let_read(self._stream)

    def respond(self, response: HttpResponseBase) -> None:
        assert isinstance(response, BytesResponse | HttpResponse)
        self._over()
        if self._application.finishing(self._request, len(response.content)) is None:
            self._serving.start(self._stream, self._request, lambda: _given(response))
        else:
            self._application.finish(self._request, response)
            self._stream.say(response)
            self._serving.let_read(self._stream)

    # --- with a task ---

    def hand_over(self, rest: Rest) -> None:
        self._handed_over = self._answering
        self._over()
        self._stream.handed_over = self
        self._serving.start(self._stream, self._request, rest).add_done_callback(self._rested)

    def go_on_without(self, response: GoingOn) -> None:
        """Let the answer go on without its task, which ends."""
        answering, self._handed_over = self._handed_over, None
        assert answering is not None
        self._begin(answering)
        response.begin()

    def _rested(self, _task: asyncio.Task[None]) -> None:
        """See to the end of an answer whose task is over, unless it goes on without one."""
        if self._handed_over is not None:
            self._handed_over.close()

    def cancel(self, msg: object = None) -> None:
        """uvicorn waits no longer, and goes through its tasks: what was begun is answered after that."""
        asyncio.get_running_loop().call_soon(self._stop)

    def _stop(self) -> None:
        if self._answering is not None:
            self._answering.stop()


async def _given(response: HttpResponseBase) -> HttpResponseBase:
    return response
