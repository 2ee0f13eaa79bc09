"""Pages of other origins that may read answers (CORS: fetch.spec.whatwg.org, 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from django.http.response import HttpResponseBase

from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request
from cortex_site.http.response import BytesResponse, fields_of

VARY = b"vary: origin\r\n"
PREFLIGHT_AGE_S = 600  # for which a browser need not ask again
_PORT = re.compile(r":\d{1,5}$")


class Origins:
    """The origins whose pages may read answers: exact ones, and those that end in `:*` at any port.

    Keys are sent as a header and not as a cookie, so no page uses a key that its user did not give it.
    """

    def __init__(self, listed: Iterable[str]) -> None:
        self._exact = frozenset(listed)
        self._at_any_port = frozenset(origin[:-2] for origin in self._exact if origin.endswith(":*"))

    def allow(self, origin: str) -> bool:
        return origin in self._exact or _PORT.sub("", origin) in self._at_any_port

    def preflight(self, request: Request) -> BytesResponse | None:
        """Return the answer to a browser that asks for a page whether it may send a request.

        It may send any method and any header: the endpoint says what is wrong with them, and the page can
        read that. None is returned for other requests, and for pages that may not.
        """
        method = request.header(b"access-control-request-method")
        if request.method != "OPTIONS" or method is None or not self.allow(request.header(b"origin") or ""):
            return None
        headers = {
            "access-control-allow-methods": method,
            "access-control-max-age": str(PREFLIGHT_AGE_S),
        }
        if asked := request.header(b"access-control-request-headers"):
            headers["access-control-allow-headers"] = asked
        return BytesResponse(b"", headers=headers)

    def share(self, request: ParsedRequest | Request, response: HttpResponseBase) -> None:
        """Let the page that sent the request read the response, if it may."""
        for name, value in fields_of(self.lines(request.header(b"origin"))).items():
            response.headers[name] = value

    def lines(self, origin: str | None) -> bytes:
        """Return the header lines that let a page of that origin read an answer, if it may."""
        if origin is None or not self.allow(origin):
            return VARY
        allowing = f"access-control-allow-origin: {origin}\r\naccess-control-expose-headers: *\r\n"
        return VARY + allowing.encode("latin-1")
