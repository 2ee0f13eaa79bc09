"""Fetching images from addresses that clients name, without giving clients the gateway's view of the network.

A host is resolved once, all its addresses must be on the public internet, and the connection goes to the
address that was checked, so a second resolution cannot differ. Redirects and the environment's proxies are
ignored, and no header of the client is sent.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

import httpx

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]

_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "cortex"}


class FetchError(Exception):
    """An image could not be fetched. The message says why; the client reads it."""


def is_public(address: IPAddress) -> bool:
    """Whether an address is on the public internet. One that wraps an IPv4 address is not."""
    if address.version == 6:
        wraps = address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64
        if wraps:
            return False
    return address.is_global and not address.is_multicast


async def resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class ImageFetcher:
    """Fetches images from addresses that `allows` accepts."""

    def __init__(self, resolve: Resolve = resolve, allows: Callable[[IPAddress], bool] = is_public) -> None:
        self._resolve = resolve
        self._allows = allows

    async def fetch(self, url: str, max_bytes: int) -> str:
        """The image as a data URL. Raises `FetchError`. The caller bounds the time."""
        parts = _parse(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = await self._address(str(parts.hostname), port)
        try:
            return await self._get(parts, address, port, max_bytes)
        except httpx.HTTPError as error:
            raise FetchError(f"{type(error).__name__}") from error

    async def _address(self, host: str, port: int) -> IPAddress:
        try:
            found = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        except (OSError, ValueError, UnicodeError) as error:
            raise FetchError("its host has no address") from error
        if not found:
            raise FetchError("its host has no address")
        if not all(map(self._allows, found)):
            raise FetchError("its host is not on the public internet")
        return found[0]

    async def _get(self, parts: SplitResult, address: IPAddress, port: int, max_bytes: int) -> str:
        host = f"[{address}]" if address.version == 6 else str(address)
        target = parts._replace(netloc=f"{host}:{port}", fragment="").geturl()
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream(
                "GET",
                target,
                headers=_HEADERS | {"host": parts.netloc},
                extensions={"sni_hostname": parts.hostname},
            ) as answer,
        ):
            if answer.status_code != 200:
                raise FetchError(f"its host answered {answer.status_code}")
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind not in _TYPES:
                raise FetchError("it is not a JPEG, PNG, GIF or WebP")
            data = bytearray()
            async for piece in answer.aiter_raw():
                data += piece
                if len(data) > max_bytes:
                    raise FetchError(f"it has more than {max_bytes} bytes")
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no number
    except ValueError as error:
        raise FetchError("its address is not a URL") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise FetchError("only http and https are fetched")
    if parts.username is not None:
        raise FetchError("its address holds credentials")
    return parts
