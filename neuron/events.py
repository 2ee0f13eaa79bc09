"""The streams of `GET /events`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from neuron.sse import KEEPALIVE
from neuron.wire import NodeState


class Events:
    """Sends the node's whole state to subscribers whenever it changed.

    An urgent change (of a model's or device's state) is sent at once; others are sent together, at most once
    every `interval_s`. There is no queue: a slow subscriber gets the newest state when it reads again.
    """

    def __init__(self, state: Callable[[int], NodeState], *, interval_s: float, keepalive_s: float) -> None:
        self._state = state
        self._interval_s = interval_s
        self._keepalive_s = keepalive_s
        self._seq = 0
        self._news = asyncio.Event()  # a new one for each publication, so that every waiter sees each once
        self._timer: asyncio.TimerHandle | None = None
        self._encoded = (-1, b"")
        self._is_closed = False

    def changed(self, urgent: bool) -> None:
        if urgent:
            self._publish()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._publish)

    def close(self) -> None:
        """End all subscriptions."""
        self._is_closed = True
        self._publish()

    def _publish(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._seq += 1
        self._news.set()
        self._news = asyncio.Event()

    async def subscribe(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the state now, then the newest after each change; comments during silence."""
        while not self._is_closed:
            news = self._news
            yield self._encode()
            while not self._is_closed:
                try:
                    await asyncio.wait_for(news.wait(), self._keepalive_s)
                    break
                except TimeoutError:
                    yield KEEPALIVE

    def _encode(self) -> bytes:
        if self._encoded[0] != self._seq:
            data = self._state(self._seq).model_dump_json()
            self._encoded = (self._seq, f"id: {self._seq}\nevent: state\ndata: {data}\n\n".encode())
        return self._encoded[1]
