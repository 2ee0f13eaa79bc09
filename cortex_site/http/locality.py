"""Whether a request comes from a program on this machine that speaks for its own user.

The peer's address alone does not say so: a proxy on this machine passes other people's requests on, and a web
page in a local browser sends requests of its own, also by a name that it resolves to loopback itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from cortex_site.base.addresses import is_loopback
from cortex_site.http.origins import Origins
from cortex_site.http.parsed_request import ParsedRequest
from cortex_site.http.request import Request

# What proxies add; one that adds nothing and keeps no Host cannot be told from a local program.
_FORWARDING = (
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"via",
    b"cf-connecting-ip",
    b"true-client-ip",
)


class Locality:
    """Tells why a request is not local. `hosts` are names that this server has besides loopback's."""

    def __init__(self, hosts: Iterable[str], origins: Origins) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = origins

    def objection(self, request: ParsedRequest | Request) -> str | None:
        """Return why a request is not from this machine's own user, as a clause; None if it is."""
        if request.peer and not is_loopback(request.peer):
            return "it comes from another machine"
        for name in _FORWARDING:
            if request.header(name) is not None:
                return f"a proxy passed it on (header `{name.decode()}`)"
        return self._foreign_host(request) or self._foreign_page(request)

    def _foreign_host(self, request: ParsedRequest | Request) -> str | None:
        host = _without_port(request.header(b"host") or "localhost").lower()
        if is_loopback(host) or host in self._hosts:
            return None
        return "its header `host` names neither loopback nor one of `allowed_hosts`"

    def _foreign_page(self, request: ParsedRequest | Request) -> str | None:
        origin = request.header(b"origin")
        if origin is not None and self._origins.allow(origin):
            return None
        if origin is not None and origin.partition("://")[2] != request.header(b"host"):
            return "a web page of another origin sent it (header `origin`)"
        if request.header(b"sec-fetch-site") in {"cross-site", "same-site"}:
            return "a web page of another origin sent it (header `sec-fetch-site`)"
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).strip("[]")
