from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

from django.http import HttpRequest, QueryDict

from cortex_site.http.parsed_request import ParsedRequest

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Line(Protocol):
    """What a request came by: a transport, or a stream of one."""

    def is_closing(self) -> bool: ...


class Request(HttpRequest):
    """A Django request that builds everything but method, path and body on first access."""

    resolver_match = None
    body = b""  # replaces a property
    account: Any = None  # what the application keeps with it

    def __init__(
        self,
        parsed: ParsedRequest,
        client: tuple[str, int] | None = None,
        line: Line | None = None,
    ) -> None:
        # HttpRequest.__init__ is not called: it builds containers that no operation here reads.
        self.parsed = parsed
        self.method = parsed.method
        self.path = self.path_info = parsed.path
        self.set_body(parsed.body)
        self._client = client
        self._line = line

    def set_body(self, body: bytes) -> None:
        """Take a body, without the mark that some clients put before JSON (RFC 8259, 8.1)."""
        self.body = self._body = body.removeprefix(BYTE_ORDER_MARK)

    def header(self, name: bytes) -> str | None:
        """Return the header of that name in lower case, decoded, or None."""
        return self.parsed.header(name)

    @property
    def bearer(self) -> str | None:
        """The token of `Authorization: Bearer …` (RFC 6750, 2.1), or None."""
        return self.parsed.bearer

    @property
    def is_open(self) -> bool:
        """False once the client has disconnected."""
        return self._line is not None and not self._line.is_closing()

    @property
    def peer(self) -> str:
        """The client's address, or "" on a unix socket."""
        return self._client[0] if self._client else ""

    @cached_property
    def GET(self) -> QueryDict:  # noqa: N802 - Django's name
        return QueryDict(self.parsed.query)

    @cached_property
    def COOKIES(self) -> dict[str, str]:  # noqa: N802 - Django's name
        return {}

    @cached_property
    def META(self) -> dict[str, Any]:  # noqa: N802 - Django's name
        meta: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "PATH_INFO": self.path,
            "REMOTE_ADDR": self.peer,
        }
        for key, value in self.parsed.headers.items():
            name = str(key, "latin-1").upper().replace("-", "_")
            meta[name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"] = str(
                value, "latin-1"
            )
        return meta
