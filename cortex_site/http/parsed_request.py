"""A request as it is read from the wire, before Django or an operation sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

import httptools

# A host and a port as a URI has them (RFC 3986, 3.2.2), or nothing (RFC 9112, 3.2).
_HOST = re.compile(rb"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?")


class BadRequestError(Exception):
    """A request cannot be read, or is not. `status` is that of the answer: 400 if it is malformed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ParsedRequest(NamedTuple):
    """A request that was read whole or, if it has a `refusal`, as far as it could be read."""

    method: str = ""
    path: str = "/"  # decoded, without the query
    query: bytes = b""
    version: str = "1.1"
    headers: Mapping[bytes, bytes] = MappingProxyType({})  # by name in lower case; of several, the first
    body: bytes = b""
    keep_alive: bool = False  # False: nothing that follows on the connection is read
    upgrade: bytes = b""  # other protocols that the client offers
    peer: str = ""  # the client's address; empty on a unix socket
    refusal: Exception | None = None  # a BadRequestError, or what the application made of the head

    def header(self, name: bytes) -> str | None:
        """Return the header of that name in lower case, decoded, or None."""
        value = self.headers.get(name)
        return None if value is None else str(value, "latin-1")

    @property
    def bearer(self) -> str | None:
        """The token of `Authorization: Bearer …` (RFC 6750, 2.1), or None."""
        given = self.header(b"authorization")
        return given[7:].strip() if given and given[:7].lower() == "bearer " else None


NOTHING_READ = ParsedRequest()


def split_target(url: bytes) -> tuple[str, bytes]:
    """Return the path, decoded, and the query of a request's target. Raises `BadRequestError`."""
    try:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError) as error:
        raise BadRequestError(400, "The request's URL is malformed.") from error
    return unquote(path) if "%" in path else path, parsed.query or b""


def is_host(value: bytes) -> bool:
    """Whether it may be the value of a `Host` header."""
    return _HOST.fullmatch(value) is not None


def check_host(value: bytes | None) -> None:
    """Raises `BadRequestError` as RFC 9112, 3.2 says."""
    if value is None or not is_host(value):
        raise BadRequestError(400, "The request must have one `Host` header, a name or address and a port.")


def check_coding(headers: Mapping[bytes, bytes], version: str) -> None:
    """Check the transfer coding. Raises `BadRequestError` 501 for one that is not known (RFC 9112, 6.1).

    HTTP/1.0 has none: who sends one there may have been misunderstood on the way (RFC 9112, 6.1 again).
    """
    coding = headers.get(b"transfer-encoding", b"chunked").lower()
    if coding != b"chunked":
        raise BadRequestError(501, "Of transfer codings only `chunked` is known.")
    if version == "1.0" and b"transfer-encoding" in headers:
        raise BadRequestError(400, "HTTP/1.0 has no transfer codings.")


def check_length(headers: Mapping[bytes, bytes], max_body_bytes: int) -> None:
    """Check the announced length of a body. Raises `BadRequestError` 413 if it is larger."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > max_body_bytes:
        raise too_large(max_body_bytes)


def too_large(max_body_bytes: int) -> BadRequestError:
    return BadRequestError(413, f"The request body is larger than {max_body_bytes} bytes.")
