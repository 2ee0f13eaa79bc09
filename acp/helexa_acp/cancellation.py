"""How a turn is stopped: a token that everything which waits on behalf of the turn watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - a decision, not an error
    """Raised by `CancelToken.race` once the token is cancelled."""


class CancelToken:
    """One turn's wish to stop: set once, seen by everything that waits on behalf of the turn."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def cancel(self) -> None:
        if self._event.is_set():
            return
        self._event.set()
        for callback in self._callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the token is cancelled, at once if it already is."""
        if self.cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    async def race(self, work: Awaitable[T]) -> T:
        """The result of `work`, or `Cancelled`; the token wins even if both are ready."""
        task = asyncio.ensure_future(work)
        if self.cancelled:
            await _drop(task)
            raise Cancelled
        waiter = asyncio.ensure_future(self._event.wait())
        try:
            await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if self.cancelled:
                raise Cancelled
            return task.result()
        finally:
            waiter.cancel()
            await _drop(task)


async def _drop(task: asyncio.Future[T]) -> None:
    if task.done():
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not report it
        return
    task.cancel()
    await asyncio.wait({task})
