from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from django.http import HttpResponse
from django.http.response import HttpResponseBase
from h2.errors import ErrorCodes

from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.response import BytesResponse, GoingOn, StreamResponse


class Line(Protocol):
    """The connection, as its streams use it."""

    def send_head(self, stream: Http2Stream, response: HttpResponseBase, *, size: int | None) -> None:
        """Send the head of an answer; `size` is that of its content, if it is known."""

    def send_whole(self, stream: Http2Stream, chunk: bytes) -> bool:
        """Send a piece as one frame, if there is room for it. Return whether there was."""

    def send(self, stream: Http2Stream) -> None:
        """Send of `stream.unsent` what the client has room for; the rest when it has."""

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """End the stream at once."""

    async def drained(self) -> None:
        """Wait while the socket is full."""

    @property
    def is_paused(self) -> bool:
        """Whether the socket is full."""

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""


class Answerer(Protocol):
    """Who makes the answer by callbacks."""

    def go_on(self) -> None:
        """There is room for more of it."""

    def close(self) -> None:
        """Nobody is there to read it."""

    def go_on_without(self, response: GoingOn) -> None:
        """Take it back from the task that it was left to."""


class Http2Stream:
    """One request and its answer (RFC 9113, 5). It is the `Sink` of the answer as well.

    What the client has no room for waits in `unsent`: at most one piece of a stream, since whoever writes one
    waits for `drain` then, or a whole answer.
    """

    __slots__ = (
        "_line",
        "_sent",
        "answerer",
        "body_parts",
        "body_size",
        "handed_over",
        "head",
        "id",
        "is_answered",
        "is_begun",
        "is_ending",
        "is_gone",
        "is_whole",
        "task",
        "timer",
        "unsent",
        "write_paused",
    )

    def __init__(self, line: Line, ident: int, head: ParsedRequest) -> None:
        self.id = ident
        self.head = head  # the request without its body
        self.body_parts: list[bytes] = []
        self.body_size = 0
        self.is_whole = False  # the client has sent all of its request
        self.is_begun = False  # its answer is being made
        self.is_gone = False  # it was ended before its time, by either side
        self.is_answered = False  # all of the answer is sent
        self.is_ending = False  # `unsent` is the answer's last
        self.unsent = bytearray()
        self.write_paused = False  # whoever writes waits for room
        self.answerer: Answerer | None = None
        self.handed_over: Answerer | None = None  # to `task`, by this one
        self.task: asyncio.Task[None] | None = None  # that answers
        self.timer: asyncio.TimerHandle | None = None  # until the request must be whole
        self._line = line
        self._sent = asyncio.Event()

    def request(self) -> ParsedRequest:
        """Return the request, as far as it was read, and forget its body."""
        parts, self.body_parts = self.body_parts, []
        return self.head._replace(body=parts[0] if len(parts) == 1 else b"".join(parts))

    def is_closing(self) -> bool:
        return self.is_gone or self._line.is_closing()

    def end(self) -> None:
        """Nothing is read or sent any more, and whoever waits for it goes on."""
        self.is_gone = True
        self.unsent.clear()
        self.body_parts.clear()
        self._sent.set()
        if self.answerer is not None:
            self.answerer.close()

    def all_is_sent(self) -> None:
        """Called when `unsent` has become empty."""
        self.is_answered = self.is_ending
        self._sent.set()

    def resume(self) -> None:
        """Let the writer of the answer go on, if it waits for room that is there now."""
        if self.write_paused and not self._is_full:
            self.write_paused = False
            if self.answerer is not None:
                self.answerer.go_on()

    @property
    def _is_full(self) -> bool:
        return bool(self.unsent) or self._line.is_paused

    # --- the answer ---

    async def answer(self, response: HttpResponseBase, patience_s: float) -> None:
        """Send an answer, unless it goes on without a task."""
        if isinstance(response, GoingOn):
            assert self.handed_over is not None
            self.task = None
            self.handed_over.go_on_without(response)
            return
        if isinstance(response, StreamResponse):
            await self._produce(response)
        else:
            assert isinstance(response, BytesResponse | HttpResponse)
            self.say(response)
        await self.let_read(patience_s)

    async def _produce(self, response: StreamResponse) -> None:
        try:
            self.is_ending = self.head.method == "HEAD"
            self.begin(response)
            if not self.is_ending:
                await response.produce(self)
                self.finish()
        finally:
            response.on_close()

    def begin(self, response: HttpResponseBase) -> None:
        """Send the head of an answer of unknown size."""
        self._line.send_head(self, response, size=None)

    def say(self, response: BytesResponse | HttpResponse) -> None:
        """Send a whole answer, as far as there is room."""
        content = response.content
        self.is_ending = self.head.method == "HEAD" or not content
        self._line.send_head(self, response, size=len(content))
        if not self.is_ending:
            self.unsent += content
            self.finish()

    def finish(self) -> None:
        """Nothing follows what was said."""
        self.is_ending = True
        self._line.send(self)

    async def let_read(self, patience_s: float) -> None:
        """Wait for the client to read the rest. If it does not within `patience_s`, it gets no more of it."""
        if not self._is_full:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.drain()
                return
        self._line.reset(self, ErrorCodes.CANCEL)

    def put(self, chunk: bytes) -> bool:
        if not chunk or self.is_closing():
            return True
        if self.unsent or not self._line.send_whole(self, chunk):
            self.unsent += chunk
            self._line.send(self)
        self.write_paused = self._is_full
        return not self.write_paused

    async def drain(self) -> None:
        while self.unsent and not self.is_closing():
            self._sent.clear()
            await self._sent.wait()
        await self._line.drained()

    async def __call__(self, chunk: bytes) -> None:
        if not self.put(chunk):
            await self.drain()

    @property
    def is_open(self) -> bool:
        """False once the client has disconnected, or taken its request back."""
        return not self.is_closing()
