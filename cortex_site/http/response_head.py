# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
from __future__ import annotations

from http import HTTPStatus

from django.http.response import HttpResponseBase
from uvicorn.server import ServerState

from cortex_site.http.response import lines_of
from ext.writer import ByteWriter

Field = tuple[bytes, bytes]

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_writer = ByteWriter()


class ResponseHeads:
    """Makes the heads of responses, with uvicorn's own headers (the date) in each."""

    __slots__ = ("_default_lines", "_defaults", "_state")

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._defaults: list[Field] | None = None
        self._default_lines = b""

    def make(self, response: HttpResponseBase, framing: str, keep_alive: bool) -> bytes:
        """Return status line, headers and empty line; `framing` is the line with the body's length."""
        status = _STATUS_LINES.get(response.status_code) or b"HTTP/1.1 %d \r\n" % response.status_code
        close = b"" if keep_alive else b"connection: close\r\n"
        return b"".join((status, lines_of(response.headers), close, framing.encode(), self._last_lines()))

    def whole(self, lines: bytes, more: bytes, content: bytes, keep_alive: bool) -> bytes:
        """Return an ordinary answer: a 200 with these header lines, and its content."""
        text = _writer
        text.clear()
        text.put(b"HTTP/1.1 200 OK\r\n")
        text.put(lines)
        text.put(more)
        if not keep_alive:
            text.put(b"connection: close\r\n")
        text.put_number(b"content-length: ", len(content))
        text.put(b"\r\n")
        text.put(self._last_lines())
        return text.written(0, text.size) + content

    def streamed(self, lines: bytes, more: bytes, chunked: bool, keep_alive: bool) -> bytes:
        """Return the head of a stream: a 200 with these header lines."""
        text = _writer
        text.clear()
        text.put(b"HTTP/1.1 200 OK\r\n")
        text.put(lines)
        text.put(more)
        text.put(b"" if keep_alive else b"connection: close\r\n")
        text.put(b"transfer-encoding: chunked\r\n" if chunked else b"")
        text.put(self._last_lines())
        return text.written(0, text.size)

    def _last_lines(self) -> bytes:
        if self._defaults is not self._state.default_headers:  # uvicorn makes them anew once a second
            self._defaults = self._state.default_headers
            self._default_lines = b"".join([b"%b: %b\r\n" % header for header in self._defaults]) + b"\r\n"
        return self._default_lines

    def fields(self, response: HttpResponseBase, size: int | None) -> list[Field]:
        """Return status and headers as HTTP/2 has them; `size` is that of the content, if it is known."""
        given = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.items()
        ]
        length = [] if size is None else [(b"content-length", b"%d" % size)]
        return [(b":status", b"%d" % response.status_code), *given, *length, *self._state.default_headers]
