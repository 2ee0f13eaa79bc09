# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The three parts that a piece of a stream passes on its way through the gateway.

`Inlet` receives it from the node's socket, `Tap` observes it, `Outlet` writes it to the client's transport.
They call one another directly: compiled, no line of Python runs for a piece, and of one that many others
came between little has to be fetched from memory. They know bytes and the functions that they are given;
sockets, clocks and tasks belong to their owner.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from ext.http import Chunks
from ext.sse import SSEScanner


class Outlet:
    """Writes to a client: HTTP chunks if `chunked`, else bare bytes; with the first of them a `head`.

    The client is slow while `flow.write_paused`.
    """

    def __init__(self, write: Callable[[bytes], object], flow: Any, chunked: bool, head: bytes = b"") -> None:
        self._write = write
        self.flow = flow
        self.chunked = chunked
        self._head = head

    def put(self, data: bytes) -> bool:
        """Write without waiting. Return False while the client is slow."""
        if data:
            self._put(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        return self.has_room()

    def has_room(self) -> bool:
        """Return whether the client keeps up."""
        return not self.flow.write_paused

    def flush(self) -> None:
        """Write the head, unless it is written: nothing came with it."""
        if self._head:
            self._put(b"")

    def end(self) -> None:
        """Write what ends the body."""
        self._put(b"0\r\n\r\n" if self.chunked else b"")

    def _put(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._write(data)


class Tap:
    """Observes a stream as it passes.

    `gaps` counts the times between two pieces by bucket: one for each of `bounds`, its upper limit included,
    and one above the last.
    """

    def __init__(
        self,
        scanner: SSEScanner,
        rewrite: Callable[[bytes], bytes] | None,
        outlet: Outlet,
        bounds: Sequence[float] = (),
    ) -> None:
        self.first_token: float | None = None  # when something visible passed
        self.first: float | None = None  # when the first piece passed
        self.last = 0.0  # when the last one did
        self.gaps = [0] * (len(bounds) + 1)
        self._bounds = bounds
        self._scanner = scanner
        self._rewrite = rewrite
        self._outlet = outlet

    def take(self, data: bytes, now: float) -> bool:
        """Scan a piece that came `now`, rewrite it and pass it on. Return False while the client is slow."""
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
        return self._outlet.put(passed) if passed else True


class Inlet:
    """The asyncio protocol of a node's connection while a chunked body streams. Every piece goes to `tap`.

    `owner` is the connection itself. `on_full` tells it that the tap wants no more, `on_stopped` that the
    chunks have stopped, `on_failed` what the tap raised. All other events of a protocol are passed to it.
    """

    def __init__(self, chunks: Chunks, tap: Tap, owner: Any, clock: Callable[[], float]) -> None:
        self.heard_at = clock()
        self._chunks = chunks
        self._tap = tap
        self._owner = owner
        self._clock = clock

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._clock()
        chunks = self._chunks
        body = chunks.feed(data)
        try:
            if body and not self._tap.take(body, self.heard_at):
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
