# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""A stream's way through the gateway, piece by piece: `Inlet` takes what a node's socket has, `Tap` looks at
it, `Outlet` hands it to the client's.

The three call one another and nothing else happens in between, so that compiled no line of Python runs for a
piece. They know bytes and the functions they are given; sockets, clocks and tasks are their owner's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from ext.http import Chunks
from ext.sse import SSEScanner


class Outlet:
    """To a client: HTTP chunks, or bare bytes where not `chunked`. It is slow while `flow.write_paused`."""

    def __init__(self, write: Callable[[bytes], None], flow: Any, chunked: bool) -> None:
        self._write = write
        self.flow = flow
        self.chunked = chunked

    def put(self, data: bytes) -> bool:
        """Send without waiting; False while the client is slow."""
        if data:
            self._write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        return not self.flow.write_paused


class Tap:
    """What a stream says as it passes. Times are those of `clock`.

    `gaps` counts the times between two pieces by bucket: up to and with each of `bounds`, and above the last.
    """

    def __init__(
        self,
        scanner: SSEScanner,
        rewrite: Callable[[bytes], bytes] | None,
        put: Callable[[bytes], bool],
        clock: Callable[[], float],
        bounds: Sequence[float] = (),
    ) -> None:
        self.first_token: float | None = None
        self.first: float | None = None  # piece
        self.last = 0.0
        self.gaps = [0] * (len(bounds) + 1)
        self._bounds = bounds
        self._scanner = scanner
        self._rewrite = rewrite
        self._put = put
        self._clock = clock

    def take(self, data: bytes) -> bool:
        """Scan a piece, rewrite it and put it on the transport. False while the client is slow."""
        now = self._clock()
        if self.first is None:
            self.first = now
        else:
            self.gaps[bisect_left(self._bounds, now - self.last)] += 1
        self.last = now
        passed = self._scanner.feed(data)
        if self._rewrite is not None:
            passed = self._rewrite(passed)
        if self.first_token is None and self._scanner.visible:
            self.first_token = now
        if passed:
            has_room: bool = self._put(passed)
            return has_room
        return True


class Inlet:
    """The protocol of a node's connection while a chunked body streams: every piece goes to `take`.

    `owner` is the connection itself: told when `take` wants no more (`on_full`), when the chunks have stopped
    (`on_stopped`) and what `take` raised (`on_failed`); the rest of a protocol's life is its own.
    """

    def __init__(
        self, chunks: Chunks, take: Callable[[bytes], bool], owner: Any, clock: Callable[[], float]
    ) -> None:
        self.heard_at = clock()
        self._chunks = chunks
        self._take = take
        self._owner = owner
        self._clock = clock

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        chunks = self._chunks
        body = chunks.feed(data)
        try:
            if body and not self._take(body):
                self._owner.on_full()
        except Exception as error:  # noqa: BLE001 - raised again where its owner waits
            self._owner.on_failed(error)
        if chunks.stopped:
            self._owner.on_stopped()

    def eof_received(self) -> Any:
        return self._owner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.connection_lost(error)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()
