# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from cortex_site.http.deadline import Deadline


class Listener(Protocol):
    """Who is told of a connection's events, in place of a task that waits."""

    def on_news(self) -> None:
        """Look at the connection: it got bytes, came to an end, or failed."""


class Waiter:
    """Lets one task wait for the callbacks of a connection, or tells a `Listener` of them.

    `on_silence` is called if nothing came in time. It calls `fail`, or `put_off` to wait longer.
    """

    __slots__ = ("_deadline", "_listener", "_loop", "_on_silence", "_wake", "error")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_silence: Callable[[], None]) -> None:
        self._loop = loop
        self._deadline = Deadline(loop, self._look)
        self._on_silence = on_silence
        self._wake: asyncio.Future[None] | None = None
        self._listener: Listener | None = None
        self.error: Exception | None = None  # raised by this wait and by all later ones

    async def wait(self, until: float) -> None:
        """Wait for `notify`, until a time of the loop's clock. Raises `error`."""
        if self.error is not None:
            raise self.error
        self._deadline.set(until)
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def listen(self, listener: Listener | None, until: float) -> None:
        """Tell `listener` what would wake a task, from now on and until a time of the loop's clock."""
        self._listener = listener
        if listener is not None:
            self._deadline.set(until)

    def put_off(self, until: float) -> None:
        """Postpone the end of the wait."""
        self._deadline.set(until)

    def notify(self) -> None:
        if self._listener is not None:
            self._listener.on_news()
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def fail(self, error: Exception) -> None:
        """Let `wait` raise the error, and the listener see it. Only the first one counts."""
        if self.error is None:
            self.error = error
        self.notify()

    def close(self) -> None:
        self._deadline.cancel()

    def _look(self) -> None:
        if self._listener is not None or (self._wake is not None and not self._wake.done()):
            self._on_silence()
