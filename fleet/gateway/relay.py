# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""One stream from a node to a client, piece by piece, without a task that wakes for each.

The node's socket hands a piece to `ext.stream`, which scans it, lets the dialect rewrite it and writes it to
the client's transport. A slow client pauses the node's socket; what is held for it is bounded by the two
transports' high-water marks.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from ext.sse import SSEScanner
from ext.stream import Outlet, Tap
from fleet.gateway.dialects.base import AnswerRewriter
from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.record import metrics
from fleet.gateway.record.draft import Passed
from fleet.gateway.record.metrics import Gaps


class Owner(Protocol):
    """Whose stream it is."""

    def on_stream_end(self) -> None:
        """Hear, once, that nothing more will pass: `Relay.rest` says why."""


class Relay:
    """`begin` moves one stream, `rest` ends it; `close` tells what was seen of it."""

    def __init__(self, answer: AnswerRewriter, outlet: Outlet, hide_usage: bool, owner: Owner) -> None:
        self._answer = answer
        self._owner: Owner | None = owner
        self._scanner = SSEScanner(hide_usage)
        rewrite = None if answer.is_verbatim else answer.feed
        self._tap = Tap(self._scanner, rewrite, outlet, metrics.GAP.bounds)
        self._connection: Connection | None = None

    def close(self) -> Passed:
        """Return what passed of the stream, which is over."""
        scanner, tap = self._scanner, self._tap
        scanner.close()
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

    def begin(self, connection: Connection) -> None:
        """Move the stream from now on; its owner ends it with `rest`."""
        self._connection = connection
        connection.pour_into(self._tap, self)

    def on_news(self) -> None:
        connection = self._connection
        if connection is not None and connection.is_poured() and self._owner is not None:
            owner, self._owner = self._owner, None
            owner.on_stream_end()

    def go_on(self) -> None:
        """The client has room."""
        if self._connection is not None:
            self._connection.go_on()

    def rest(self) -> bytes:
        """Return what completes the client's stream. Raises why it cannot be completed."""
        assert self._connection is not None
        error = self._connection.error
        is_whole = error is None or (self._ended and isinstance(error, UpstreamError))
        rest = self._scanner.close()
        if error is not None and not is_whole:
            raise error
        if not self._ended:
            if not self._scanner.finish:
                raise UpstreamError("closed", "the node ended the stream without [DONE]")
            rest += b"data: [DONE]\n\n"  # some servers send none: the answer was whole, and so was the body
        return self._answer.feed(rest) + self._answer.close()


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
