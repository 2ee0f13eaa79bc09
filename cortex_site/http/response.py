from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from django.http.response import HttpResponseBase

Write = Callable[[bytes], Awaitable[None]]


class Sink(Protocol):
    """Where a stream's chunks go."""

    async def __call__(self, chunk: bytes) -> None:
        """Send a chunk, and wait while the client is slow."""

    def put(self, chunk: bytes) -> bool:
        """Send without waiting, from any callback; False when `drain` is to be awaited before more."""

    async def drain(self) -> None: ...

    @property
    def is_open(self) -> bool:
        """False once the client has left."""


class Response(HttpResponseBase):
    """A Django response whose headers are a plain dict with lower-case names; no cookies, no charset."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        # HttpResponseBase's own __init__ is left out: it checks and re-encodes what is written here only.
        self.status_code = status
        self.headers = headers

    def close(self) -> None:
        """Nothing is held."""


class BytesResponse(Response):
    """An answer that is there."""

    def __init__(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        super().__init__(status, headers)
        self.content = content


class StreamResponse(Response):
    """An answer that writes itself: `produce` is awaited with the `Sink` that sends its chunks.

    `produce` must handle its own failures: once the head is sent, nobody else can tell the client. It is
    cancelled when the client goes away. `on_close` is called once the answer is over, also when `produce`
    was never reached.
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
