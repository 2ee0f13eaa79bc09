# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""One client connection, apart from the requests on it: how long it may be silent, what it holds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from cortex_site.http.answering import Answering
from cortex_site.http.application import Application
from cortex_site.http.deadline import Deadline
from cortex_site.http.endings import let_read
from cortex_site.http.flow import Flow
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.pipelined import Pipelined
from cortex_site.http.probe import probe
from cortex_site.http.request import Request
from cortex_site.http.request_reader import RequestReader
from cortex_site.http.response_head import ResponseHeads
from cortex_site.http.states import BODY, WAITING, ReadState
from ext.stream import Outlet

TURN_BYTES = 1 << 15  # that a connection parses in one turn of the loop, unless they are one whole request
LAST_CALL_S = 1.0  # after a stop, an idle connection may still bring a request that was on its way


class ClientConnection:
    """What a connection to a client knows and may do, whatever its requests are."""

    _transport: asyncio.Transport
    _flow: Flow
    _client: tuple[str, int] | None
    _is_plain: bool

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not isinstance(config.loaded_app, Application):
            raise TypeError("ServerProtocol serves an Application")
        self._application = config.loaded_app
        self._bounds = config.loaded_app.bounds
        self._held = config.loaded_app.held
        self._loop = _loop or asyncio.get_running_loop()
        self._server = server_state
        self._patience_s = config.timeout_keep_alive
        self._deadline = Deadline(self._loop, self._on_due)
        self._latest = math.inf  # when the head or body under way must be there
        self._reader = RequestReader(self._bounds.max_body_bytes, self._judge)
        self._unparsed = b""  # has come, and waits for its turn
        self._num_held = 0  # bytes of bodies, from this connection
        self._heads = ResponseHeads(server_state)
        self._pipelined = Pipelined()
        self._request: ParsedRequest | None = None  # under way
        self._answering: Answering | None = None  # it, without a task
        self._handed_over: Answering | None = None  # it, while a task goes on with it
        self._outlet: Outlet | None = None  # where its stream goes
        self._task: asyncio.Task[None] | None = None  # that answers it
        self._awaited: ParsedRequest | None = None  # under way, and nothing of its answer is sent yet
        self._has_eof = False  # the client sends no more
        self._opening: bytes | None = b"" if self._bounds.http2 else None  # as long as it may be its preface
        self._stopping = False  # the answer under way is the last one

    def _put_off(self, data: bytes) -> bytes:
        """What may be parsed of `data` now: a whole request, else no more than a turn of the loop is for.

        The rest waits for the next turns, in which others have theirs, and nothing is read meanwhile.
        """
        head = self._reader.read_head(data) if self._reader.state is WAITING else None
        if head is not None and head.size + head.length == len(data):
            return data
        self._unparsed = data[TURN_BYTES:]
        self._flow.pause_reading()
        self._loop.call_soon(self._take_up)
        return data[:TURN_BYTES]

    def _take_up(self) -> None:
        data, self._unparsed = self._unparsed, b""
        if self.is_open:
            self.data_received(data)
        if self.is_open and not self._unparsed and not self._pipelined.are_far_ahead:
            self._flow.resume_reading()

    def _watch(self, before: ReadState) -> None:
        """Give what has begun its time: a head from its first byte on, a body from the head's last."""
        now, state = self._loop.time(), self._reader.state
        if state is not before:
            self._latest = now + (self._bounds.body_s if state is BODY else self._bounds.head_s)
        self._deadline.set(min(now + self._patience_s, self._latest))

    def _hold(self, size: int) -> None:
        """Count bytes of bodies that this connection holds, or no more if negative."""
        self._num_held += size
        self._held.total += size

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def eof_received(self) -> bool:
        """Go on for a client that waits for an answer and has no more to send.

        One that has left says the same, so the connection is probed until the answer begins. Later, and in
        HTTP/1.0 and over TLS, where nothing can be sent that is no part of the answer, it counts as left.
        """
        awaited = self._awaited
        if awaited is None or awaited.version == "1.0" or not self._transport.can_write_eof():
            return False
        self._has_eof = True
        probe(self._transport, lambda: self._awaited is not None)
        return True

    def shutdown(self) -> None:
        """The server stops: a request that has begun, or is on its way already, is still answered."""
        self._stopping = True
        if self._request is None and self._reader.state is WAITING:
            self._deadline.set(self._loop.time() + LAST_CALL_S)

    def _judge(self, parsed: ParsedRequest) -> Exception | None:
        return self._application.judge(Request(parsed, self._client, self._transport))

    def _send_continue(self) -> None:
        """Called between two answers: a `100 Continue` must not get into one."""
        if self._reader.awaits_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _let_read(self) -> Coroutine[Any, Any, bool]:
        return let_read(self._transport, self._flow, self._patience_s)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def _on_due(self) -> None:
        raise NotImplementedError
