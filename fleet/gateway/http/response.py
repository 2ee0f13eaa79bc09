from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fleet.gateway.http.connection import Connection
from fleet.gateway.http.errors import UpstreamError


class UpstreamResponse:
    """A node's response: its head, and its body as it arrives. `close` must be called; twice is harmless."""

    def __init__(
        self, connection: Connection, release: Callable[[Connection], None], queued_s: float
    ) -> None:
        self._release = release
        self._connection: Connection | None = connection
        self.headers = connection.answer.headers  # by name in lower case
        self.status = connection.answer.status
        self.queued_s = queued_s  # the request's wait for a connection, seconds

    def header(self, name: bytes, default: str = "") -> str:
        """Return the value of a header, by its name in lower case."""
        value = self.headers.get(name)
        return default if value is None else str(value, "latin-1")

    @property
    def connection(self) -> Connection:
        assert self._connection is not None
        return self._connection

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives. Raises `UpstreamError`."""
        connection = self.connection
        while await connection.has_body():
            yield connection.body.take()

    async def read(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises `UpstreamError`, also when it is longer than `max_bytes`."""
        connection, parts, size = self.connection, [], 0
        arrived = connection.body
        while arrived.size or await connection.has_body():
            size += arrived.size
            parts.append(arrived.take())
            if size > max_bytes:
                raise UpstreamError("protocol", f"the answer is longer than {max_bytes} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Return the connection to the pool, or cut it if the body was not read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)
