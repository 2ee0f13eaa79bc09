from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from neuron.pipe import Finished, Logprob, Refused

log = logging.getLogger("neuron.generation")


class Generation:
    """One request in a device worker: tokens come in as they are made, one task reads them.

    The reader may be slow (its client may be); up to `max_unread` tokens wait for it, then the request is cut
    off. Whatever happens it ends with exactly one `Finished` or `Refused` in `end`.
    """

    def __init__(self, request: int, model: str, *, cancel: Callable[[int], None], max_unread: int) -> None:
        self._request = request
        self.model = model
        self._cancel = cancel
        self._max_unread = max_unread
        self._unread: list[int] = []
        self.logprobs: deque[Logprob] = deque()  # one per token where asked for; the reader takes them
        self.prompt_logprobs: list[Logprob] = []  # where asked for: all there with the first token
        self._waiter: asyncio.Future[None] | None = None
        self._is_cancelled = False
        self.end: Finished | Refused | None = None

    async def read(self, timeout_s: float) -> list[int] | None:
        """All tokens since the last read, none when it ended; None when nothing happened in time."""
        if not self._unread and self.end is None:
            await self._wait(timeout_s)
        if not self._unread and self.end is None:
            return None
        tokens, self._unread = self._unread, []
        return tokens

    async def _wait(self, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def push(self, tokens: list[int], logprobs: Sequence[Logprob] = ()) -> None:
        """Called for each `Tokens`; what comes after the end is of no interest."""
        if self.end is not None:
            return
        self._unread += tokens
        self.logprobs.extend(logprobs)
        if len(self._unread) > self._max_unread:
            log.warning("client does not read, request cut off", extra={"unread_tokens": len(self._unread)})
            self.cancel()
            message = f"The client left more than {self._max_unread} tokens unread."
            self.finish(Refused(self._request, 503, "client_too_slow", message))
        self._wake()

    def finish(self, end: Finished | Refused) -> None:
        """Called for `Finished` and `Refused`; the first one counts."""
        if self.end is None:
            self.end = end
            self._wake()

    def cancel(self) -> None:
        """Nobody wants more tokens. `end` still comes, unless it was there already."""
        if self.end is None and not self._is_cancelled:
            self._is_cancelled = True
            self._cancel(self._request)
