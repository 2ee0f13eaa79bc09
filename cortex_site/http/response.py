from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

from django.http.response import HttpResponseBase

Write = Callable[[bytes], Awaitable[None]]


class Sink(Protocol):
    """Takes the chunks of a stream to its client."""

    async def __call__(self, chunk: bytes) -> None:
        """Send a chunk and wait while the client is slow."""

    def put(self, chunk: bytes) -> bool:
        """Send from any callback, without waiting. Return False if `drain` must be awaited before more."""

    async def drain(self) -> None:
        """Wait while the client is slow."""

    @property
    def is_open(self) -> bool:
        """False once the client has disconnected."""


class Response(HttpResponseBase):
    """A Django response whose headers are a plain dict with lower-case names; no cookies, no charset."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        # HttpResponseBase.__init__ is not called: it checks and re-encodes headers, and these are ours.
        self.status_code = status
        self.headers = headers

    def close(self) -> None:
        """Do nothing: it holds nothing that Django would have to close."""


class BytesResponse(Response):
    """A response whose whole content is known."""

    def __init__(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        super().__init__(status, headers)
        self.content = content


def lines_of(headers: Mapping[str, str]) -> bytes:
    """Return headers as lines that each end with CRLF."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


def fields_of(lines: bytes) -> dict[str, str]:
    """Return headers by name, from lines that each end with CRLF."""
    return dict(line.split(": ", 1) for line in lines.decode("latin-1").split("\r\n")[:-1])


class GoingOn(Response):
    """A response that whoever began the request's answer goes on with, without a task, from `begin` on."""

    def __init__(self, begin: Callable[[], None]) -> None:
        super().__init__(200, {})
        self.begin = begin


class StreamResponse(Response):
    """A response that writes itself: `produce` is awaited with the `Sink` that sends its chunks.

    `produce` must handle its own failures, because nothing else can report them once the head is sent. It is
    cancelled if the client disconnects. `on_close` is called at the end, even if `produce` was never called.
    """

    streaming = True

    def __init__(
        self,
        produce: Callable[[Sink], Awaitable[None]],
        *,
        status: int = 200,
        headers: dict[str, str],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(status, headers)
        self.produce = produce
        self.on_close = on_close

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError("a StreamResponse is served by Application only")
