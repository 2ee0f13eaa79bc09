"""One stream on its way from a node to a client, piece by piece, without a task that wakes for each.

The node's socket hands a piece to `ext.stream`, which scans it, lets the dialect rewrite it and puts it on
the client's transport. A slow client pauses the node's socket; what is held for it is bounded by the two
transports' high-water marks.
"""

from __future__ import annotations

import time

import msgspec

from cortex_site.http.response import Sink
from ext.sse import SSEScanner
from ext.stream import Tap
from fleet.gateway.dialects.chat import Answer
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.record import metrics
from fleet.gateway.record.metrics import Gaps


class Relay:
    """`run` moves one stream; the rest is what it saw of it. Times are monotonic, in seconds."""

    def __init__(self, answer: Answer, sink: Sink, *, hide_usage: bool) -> None:
        self._answer = answer
        self._sink = sink
        self._scanner = SSEScanner(hide_usage)
        rewrite = None if answer.is_verbatim else answer.feed
        self._tap = Tap(self._scanner, rewrite, sink.put, time.monotonic, metrics.GAP.bounds)

    @property
    def events(self) -> int:
        return self._scanner.events

    @property
    def usage(self) -> bytes:
        """The event that held it last; empty when none did."""
        return self._scanner.usage

    @property
    def failed(self) -> bool:
        """The node said within the stream that it failed, in words a client can read."""
        return bool(self._scanner.error) and _is_json(self._scanner.error)

    @property
    def first_token(self) -> float | None:
        return self._tap.first_token

    @property
    def finish(self) -> bytes:
        """The event that held a finish reason; empty when none did."""
        return self._scanner.finish

    @property
    def gaps(self) -> Gaps:
        """Between its pieces."""
        tap = self._tap
        return Gaps(tap.gaps, tap.last - (tap.first or tap.last))

    @property
    def _ended(self) -> bool:
        """The client has the stream's end; what follows on the node's connection is not its concern."""
        return self._scanner.done or self.failed

    async def run(self, response: UpstreamResponse) -> None:
        """Raises `UpstreamError` when the node's stream is no whole one."""
        try:
            await response.pour(self._tap.take, self._sink.drain)
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
            await self._sink(rest)


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
