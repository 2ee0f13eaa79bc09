"""Accepts connections of listening sockets that other workers accept from, too."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from cortex_site.base.sharing import Share

log = logging.getLogger("cortex.http")

LOOK_S = 0.001  # between looks whether others have come to have as many connections
LOOKS = 5  # after which a connection that nobody else took is accepted
SAY_S = 1.0  # between signs of life
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_S = 1.0  # until the next try


class Connections(set[Any]):
    """uvicorn's set of open connections. `on_less` is called when there is one less."""

    def __init__(self) -> None:
        super().__init__()
        self.on_less: Callable[[], None] = _nothing

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self.on_less()


class Acceptor:
    """What `asyncio.Server` is to a server that shares nothing: it accepts until `close`.

    A worker that has its share of connections leaves the next one to others; if none of them takes it within
    a few milliseconds, it does.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        share: Share,
        connections: Connections,
        **tls: Any,
    ) -> None:
        self._sockets = sockets
        self._make_protocol = make_protocol
        self._share = share
        self._connections = connections
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._turn: asyncio.TimerHandle | None = None  # as long as others have theirs
        for sock in sockets:
            sock.setblocking(False)
        connections.on_less = self._on_less
        self._say_regularly()
        self._listen()

    def close(self) -> None:
        self._pause()
        self._regular.cancel()
        self._share.leave()

    # --- what the others know of this worker ---

    def _say_regularly(self) -> None:
        self._say()
        self._regular = self._loop.call_later(SAY_S, self._say_regularly)

    def _say(self) -> None:
        self._share.say(len(self._connections) + len(self._opening))

    def _on_less(self) -> None:
        self._say()
        if self._turn is not None and not self._share.is_full:
            self._turn.cancel()
            self._listen()

    # --- taking turns ---

    def _listen(self) -> None:
        self._turn = None
        for sock in self._sockets:
            self._loop.add_reader(sock, self._on_waiting, sock)

    def _pause(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        if self._turn is not None:
            self._turn.cancel()

    def _on_waiting(self, sock: socket.socket) -> None:
        if not self._share.is_full:
            self._accept(sock)
        elif self._turn is None:
            self._pause()
            self._look_later(LOOKS)

    def _look_later(self, looks: int) -> None:
        self._turn = self._loop.call_later(LOOK_S, self._look, looks - 1)

    def _look(self, looks: int) -> None:
        if looks and self._share.is_full:
            self._look_later(looks)
            return
        self._listen()
        for sock in self._sockets:
            self._accept(sock)

    # --- a connection ---

    def _accept(self, sock: socket.socket) -> None:
        """Accept the next connection, unless another worker just has."""
        try:
            accepted, _ = sock.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._rest(error)
            return
        accepted.setblocking(False)
        task = self._loop.create_task(self._open(accepted))
        self._opening.add(task)
        task.add_done_callback(self._opened)
        self._say()

    def _rest(self, error: OSError) -> None:
        log.error("cannot accept connections", extra={"error": str(error)})
        self._pause()
        self._turn = self._loop.call_later(EXHAUSTED_S, self._listen)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, accepted, **self._tls)
        except (OSError, TimeoutError) as error:  # a client that left, or speaks no TLS
            accepted.close()
            log.debug("a connection failed", extra={"error": str(error)})

    def _opened(self, task: asyncio.Task[Any]) -> None:
        self._opening.discard(task)
        self._say()


def _nothing() -> None: ...
