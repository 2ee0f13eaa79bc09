from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from django.http import HttpRequest, QueryDict

from cortex_site.http.asgi import Scope


class Request(HttpRequest):
    """A Django request on an ASGI scope: everything but method and path is built when first asked for."""

    resolver_match = None
    body = b""  # in the place of a property
    transport: asyncio.BaseTransport | None = None  # to the client, where it is known

    def __init__(self, scope: Scope, body: bytes, headers: Mapping[bytes, bytes] | None = None) -> None:
        """`headers` by name, where whoever read them has them so, are in the place of the scope's."""
        # HttpRequest's own __init__ is left out: it builds containers that no operation here reads.
        self.scope = scope
        self.method = scope["method"]
        self.path = self.path_info = scope["path"]
        self.body = self._body = body
        self._by_name = headers

    def header(self, name: bytes) -> str | None:
        """The first header of that name (lower case), decoded; None when absent."""
        by_name = self._by_name
        if by_name is None:
            by_name = self._by_name = dict(reversed(self.scope["headers"]))
        value = by_name.get(name)
        return None if value is None else str(value, "latin-1")

    @property
    def is_open(self) -> bool:
        """False once the client has left, and where that cannot be known."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def peer(self) -> str:
        """The client's address; empty on a unix socket."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @cached_property
    def GET(self) -> QueryDict:  # noqa: N802 - Django's name
        return QueryDict(self.scope.get("query_string", b""))

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
        headers = self.scope["headers"] if "headers" in self.scope else (self._by_name or {}).items()
        for key, value in headers:
            name = str(key, "latin-1").upper().replace("-", "_")
            meta[name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"] = str(
                value, "latin-1"
            )
        return meta
