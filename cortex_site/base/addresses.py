"""The addresses that servers listen on, and where their clients reach them."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

MAX_HOST_CHARS = 255  # of a name in DNS (RFC 1035, 2.3.4)

# An address that stands for every interface, and the one at which this machine reaches who listens there.
_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, never bound


def _host_and_port(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise ValueError("expected HOST:PORT, as in 127.0.0.1:31313")
    return value


Listen = Annotated[str, AfterValidator(_host_and_port)]


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?:\d{1,5}|\*))?")
_DEFAULT_PORT = re.compile(r"http:.*:80|https:.*:443")


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value) or _DEFAULT_PORT.fullmatch(value):
        raise ValueError(
            "expected an origin as browsers send it, as in https://chat.example.org or http://localhost:*"
        )
    return value


# What browsers send as `Origin`: without path and default port. A `*` may stand for any port.
Origin = Annotated[str, AfterValidator(_origin)]


def split_listen(listen: str) -> tuple[str, int]:
    """The host (without brackets) and the port of a validated `Listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`, an address or a name of it (RFC 6761, 6.3)."""
    return len(host) <= MAX_HOST_CHARS and _is_loopback(host)


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.removesuffix(".")  # the root
        return name == "localhost" or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_unspecified(host: str) -> bool:
    """Whether a server on `host` listens on every interface."""
    return host in _UNSPECIFIED


def reachable_host(host: str) -> str:
    """The host at which this machine reaches a server that listens on `host`."""
    return _UNSPECIFIED.get(host, host)


def local_address(listen: str) -> tuple[str, int]:
    """The host and port at which this machine reaches a server that listens on `listen`."""
    host, port = split_listen(listen)
    return reachable_host(host), port


def http_url(host: str, port: int, *, tls: bool = False) -> str:
    """The URL of a server, with brackets around an IPv6 address."""
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def local_url(listen: str, *, tls: bool = False) -> str:
    """The URL at which this machine reaches a server that listens on `listen`."""
    return http_url(*local_address(listen), tls=tls)
