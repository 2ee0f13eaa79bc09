from __future__ import annotations

from http import HTTPStatus

from django.http.response import HttpResponseBase
from uvicorn.server import ServerState

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class ResponseHeads:
    """Makes the heads of responses, with uvicorn's own headers (the date) in each."""

    __slots__ = ("_default_lines", "_defaults", "_state")

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._default_lines = b""

    def make(self, response: HttpResponseBase, framing: str, *, keep_alive: bool) -> bytes:
        """Return status line, headers and empty line; `framing` is the line with the body's length."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        status = _STATUS_LINES.get(response.status_code) or f"HTTP/1.1 {response.status_code} \r\n"
        close = "" if keep_alive else "connection: close\r\n"
        if self._defaults is not self._state.default_headers:  # uvicorn makes them anew once a second
            self._defaults = self._state.default_headers
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in self._defaults) + b"\r\n"
        return f"{status}{lines}{close}{framing}".encode("latin-1") + self._default_lines
