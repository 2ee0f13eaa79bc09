"""One stream on its way from a node to a client, chunk by chunk, without a task that wakes for each.

The upstream's callback hands a chunk to `Relay`, which scans it, lets the dialect rewrite it and puts it on
the client's transport. A slow client pauses the node's socket; what is held for it is bounded by the two
transports' high-water marks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cortex_site.light import Sink
from ext.sse import SSEScanner
from fleet.gateway.connection import UpstreamError
from fleet.gateway.dialects import Answer
from fleet.gateway.upstream import Response

MAX_CHUNK_TIMES = 1024  # of a stream, for the gaps between them: its last


class Relay:
    """`run` moves one stream; the rest is what it saw of it. Times are monotonic, in seconds."""

    def __init__(self, answer: Answer, *, hide_usage: bool) -> None:
        self._answer = answer
        self._scanner = SSEScanner(hide_usage)
        self._feed = self._scanner.feed
        self._rewrite = None if answer.is_verbatim else answer.feed
        self._put: Callable[[bytes], bool] | None = None
        self.first_token: float | None = None
        self.finish = b""  # the chunk that held the finish reason
        self.chunk_times: deque[float] = deque(maxlen=MAX_CHUNK_TIMES)

    @property
    def events(self) -> int:
        return self._scanner.events

    @property
    def usage(self) -> bytes:
        """The event that held it last; empty when none did."""
        return self._scanner.usage

    @property
    def failed(self) -> bool:
        """The node said within the stream that it failed."""
        return bool(self._scanner.error)

    @property
    def _ended(self) -> bool:
        """The client has the stream's end; what follows on the node's connection is not its concern."""
        return self._scanner.done or self.failed

    async def run(self, response: Response, sink: Sink) -> None:
        """Raises `UpstreamError` when the node's stream is no whole one."""
        self._put = sink.put
        try:
            await response.pour(self._take, sink.drain)
        except UpstreamError:
            if not self._ended:
                raise
        finally:
            rest = self._scanner.close()
        if not self._ended:
            if not self.finish:
                raise UpstreamError("closed", "the node ended the stream without [DONE]")
            rest += b"data: [DONE]\n\n"  # some servers have none: the answer was whole, so was the body
        if rest := self._answer.feed(rest) + self._answer.close():
            await sink(rest)

    def _take(self, chunk: bytes) -> bool:
        """Called by the upstream; False while the client is slow."""
        assert self._put is not None
        now = time.monotonic()
        self.chunk_times.append(now)
        passed = self._feed(chunk)
        if self._rewrite is not None:
            passed = self._rewrite(passed)
        if self.first_token is None and self._scanner.visible:
            self.first_token = now
        if self._scanner.finished and not self.finish:
            self.finish = chunk
        return self._put(passed) if passed else True
