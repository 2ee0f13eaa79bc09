"""One stream from a node to a client, piece by piece, without a task that wakes for each.

The node's socket hands a piece to `ext.stream`, which scans it, lets the dialect rewrite it and writes it to
the client's transport. A slow client pauses the node's socket; what is held for it is bounded by the two
transports' high-water marks.
"""

from __future__ import annotations

import time

import msgspec

from cortex_site.http.response import Sink
from ext.sse import SSEScanner
from ext.stream import Tap
from fleet.gateway.dialects.base import AnswerRewriter
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.http.response import UpstreamResponse
from fleet.gateway.record import metrics
from fleet.gateway.record.draft import Passed
from fleet.gateway.record.metrics import Gaps


class Relay:
    """`run` moves one stream; `passed` is what it saw of it."""

    def __init__(self, answer: AnswerRewriter, sink: Sink, *, hide_usage: bool) -> None:
        self._answer = answer
        self._sink = sink
        self._scanner = SSEScanner(hide_usage)
        rewrite = None if answer.is_verbatim else answer.feed
        self._tap = Tap(self._scanner, rewrite, sink.put, time.monotonic, metrics.GAP.bounds)

    @property
    def passed(self) -> Passed:
        scanner, tap = self._scanner, self._tap
        gaps = Gaps(tap.gaps, tap.last - (tap.first or tap.last))
        return Passed(scanner.events, tap.first_token, scanner.finish, scanner.usage, gaps)

    @property
    def failed(self) -> bool:
        """Whether the node reported its failure within the stream, as an event that a client can read."""
        return bool(self._scanner.error) and _is_json(self._scanner.error)

    @property
    def _ended(self) -> bool:
        """Whether the client has the stream's end: what follows on the node's connection does not matter."""
        return self._scanner.done or self.failed

    async def run(self, response: UpstreamResponse) -> None:
        """Move the stream to its end. Raises `UpstreamError` when the node's stream is not whole."""
        try:
            await response.pour(self._tap.take, self._sink.drain)
        except UpstreamError:
            if not self._ended:
                raise
        finally:
            rest = self._scanner.close()
        if not self._ended:
            if not self._scanner.finish:
                raise UpstreamError("closed", "the node ended the stream without [DONE]")
            rest += b"data: [DONE]\n\n"  # some servers send none: the answer was whole, and so was the body
        if rest := self._answer.feed(rest) + self._answer.close():
            await self._sink(rest)


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
