from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fleet.gateway.http.connection import Connection


class UpstreamResponse:
    """The head of an answer, and its body still to come. `close` must be called, and may be called twice."""

    def __init__(
        self, connection: Connection, release: Callable[[Connection], None], queued_s: float
    ) -> None:
        self._release = release
        self._connection: Connection | None = connection
        self._headers = connection.headers
        self.status = connection.status
        self.queued_s = queued_s  # the request waited so long for a connection

    def header(self, name: bytes, default: str = "") -> str:
        """By its name in lower case."""
        value = self._headers.get(name)
        return default if value is None else str(value, "latin-1")

    @property
    def _open(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def chunks(self) -> AsyncIterator[bytes]:
        return self._open.chunks()

    def pour(
        self, take: Callable[[bytes], bool], drain: Callable[[], Awaitable[None]]
    ) -> Coroutine[Any, Any, None]:
        return self._open.pour(take, drain)

    def read(self, max_bytes: int) -> Coroutine[Any, Any, bytes]:
        """The whole body; `UpstreamError` when it is longer than `max_bytes`."""
        return self._open.read(max_bytes)

    def close(self) -> None:
        """Give the connection back if the body was read to its end; else cut it, which tells the node."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)
