"""The daemon's end of one request in a device worker."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from neuron.pipe import Finished, Logprob, Refused

log = logging.getLogger("neuron.generation")


class Generation:
    """One request in a device worker: the tokens that came and are not read yet, and how it ended.

    One task reads. Up to `max_unread` tokens wait for a slow one; then the request is cut off. Whatever
    happens, it ends with exactly one `Finished` or `Refused` in `end`.
    """

    def __init__(self, number: int, model: str, *, cancel: Callable[[int], None], max_unread: int) -> None:
        self.number = number
        self.model = model
        self._cancel = cancel
        self._max_unread = max_unread
        self._unread: list[int] = []
        self.logprobs: deque[Logprob] = deque()  # where asked for, one per token; the reader takes them
        self.prompt_logprobs: list[Logprob] = []  # where asked for; complete before the first token
        self._waiter: asyncio.Future[None] | None = None
        self._is_cancelled = False
        self.end: Finished | Refused | None = None

    async def read(self, timeout_s: float | None = None) -> list[int] | None:
        """All tokens since the last read, none when the request ended; None when nothing came in time."""
        if not self._unread and self.end is None:
            await self._wait(timeout_s)
        if not self._unread and self.end is None:
            return None
        tokens, self._unread = self._unread, []
        return tokens

    async def _wait(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def push(self, tokens: list[int], logprobs: Sequence[Logprob] = ()) -> None:
        """Take in a `Tokens` message; those after the end are dropped."""
        if self.end is not None:
            return
        self._unread += tokens
        self.logprobs.extend(logprobs)
        if len(self._unread) > self._max_unread:
            log.warning("client does not read, request cut off", extra={"unread_tokens": len(self._unread)})
            self.cancel()
            message = f"The client left more than {self._max_unread} tokens unread."
            self.finish(Refused(self.number, 503, "client_too_slow", message))
        self._wake()

    def finish(self, end: Finished | Refused) -> None:
        """Take in a `Finished` or `Refused`; the first one counts."""
        if self.end is None:
            self.end = end
            self._wake()

    def cancel(self) -> None:
        """Ask the worker to end the request; `end` then comes, unless it is there already."""
        if self.end is None and not self._is_cancelled:
            self._is_cancelled = True
            self._cancel(self.number)
