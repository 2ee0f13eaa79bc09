"""A request as it is read from the wire, before Django or an operation sees it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

import httptools


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
    refusal: Exception | None = None  # a BadRequestError, or what the application made of the head


NOTHING_READ = ParsedRequest()


def split_target(url: bytes) -> tuple[str, bytes]:
    """Return the path, decoded, and the query of a request's target. Raises `BadRequestError`."""
    try:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError) as error:
        raise BadRequestError(400, "The request's URL is malformed.") from error
    return unquote(path) if "%" in path else path, parsed.query or b""


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
