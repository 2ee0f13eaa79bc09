from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError


class UpstreamResponse:
    """The head of an answer, and its body still to come. `close` must be called, and may be called twice."""

    def __init__(
        self, connection: Connection, release: Callable[[Connection], None], queued_s: float
    ) -> None:
        self._release = release
        self._connection: Connection | None = connection
        self._headers = connection.answer.headers
        self.status = connection.answer.status
        self.queued_s = queued_s  # the request's wait for a connection, seconds

    def header(self, name: bytes, default: str = "") -> str:
        """By its name in lower case."""
        value = self._headers.get(name)
        return default if value is None else str(value, "latin-1")

    @property
    def _open(self) -> Connection:
        assert self._connection is not None
        return self._connection

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, everything that is there at once. Raises `UpstreamError`."""
        connection = self._open
        while await connection.has_body():
            yield connection.body.take()

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises `UpstreamError`, also when it is longer than `max_bytes`."""
        connection, parts, size = self._open, [], 0
        arrived = connection.body
        while arrived.size or await connection.has_body():
            size += arrived.size
            parts.append(arrived.take())
            if size > max_bytes:
                raise UpstreamError("protocol", f"the answer is longer than {max_bytes} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pour(
        self, take: Callable[[bytes], bool], drain: Callable[[], Awaitable[None]]
    ) -> Coroutine[Any, Any, None]:
        """Give the whole body to `take`, as `Connection.pour` says."""
        return self._open.pour(take, drain)

    def close(self) -> None:
        """Give the connection back if the body was read to its end; else cut it, which tells the node."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)
