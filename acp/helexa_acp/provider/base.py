"""The seam: what the agent loop knows of an endpoint."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from helexa_acp.provider.types import CompletionEvent, CompletionRequest, ModelDetails

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


class Provider(ABC):
    """An endpoint that completes. Constructing one does no network and imports nothing heavy."""

    name: str

    @abstractmethod
    async def list_models(self) -> list[ModelDetails]:
        """Raises ProviderError."""

    @abstractmethod
    def complete(
        self, request: CompletionRequest, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        """Stream one completion.

        Ends silently, without Finish, once `cancel` is set; nothing is yielded after that.
        Raises ProviderError; a broken stream raises after the events that arrived.
        """

    async def count_tokens(self, request: CompletionRequest) -> int | None:
        """The prompt's exact length where the endpoint can tell, else None. Never raises ProviderError."""
        del request
        return None

    async def aclose(self) -> None:  # noqa: B027 - an optional hook
        """Give back connections."""
