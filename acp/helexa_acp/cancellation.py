"""Cancellation of a turn, through a token that every wait of the turn watches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - a decision, not an error
    """`CancelToken.race` raises it once the token is cancelled."""


class CancelToken:
    """The cancellation of one turn: set once, never reset."""

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
        """Call `callback` when the token is cancelled; immediately if it already is."""
        if self.cancelled:
            callback()
        else:
            self._callbacks.append(callback)

    async def race(self, work: Awaitable[T]) -> T:
        """Return the result of `work`. Raises Cancelled, even if the result is ready as well."""
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
            task.exception()  # retrieved, so that asyncio does not log it
        return
    task.cancel()
    await asyncio.wait({task})
