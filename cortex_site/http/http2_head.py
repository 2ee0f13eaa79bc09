"""The heads of HTTP/2: of requests (RFC 9113, 8.3.1), and of those of HTTP/1.1 that offer it (RFC 7540)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cortex_site.http.parsed_request import (
    BadRequestError,
    ParsedRequest,
    check_host,
    check_length,
    split_target,
)

_SETTINGS = re.compile(rb"(?:[A-Za-z0-9_-]{8})*")  # of six bytes each, in base64


def read_head(fields: Iterable[tuple[bytes, bytes]], max_body_bytes: int) -> ParsedRequest:
    """Return a request without its body, with a refusal if its head forbids to read one.

    `fields` are well-formed, pseudo-header fields included.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in fields:
        headers.setdefault(bytes(name), bytes(value))
    pseudo = {name: headers.pop(name) for name in list(headers) if name.startswith(b":")}
    if authority := pseudo.get(b":authority"):
        headers[b"host"] = authority
    head = ParsedRequest(
        method=pseudo[b":method"].decode("latin-1"), version="2", headers=headers, keep_alive=True
    )
    try:
        path, query = split_target(pseudo.get(b":path", b""))
        head = head._replace(path=path, query=query)
        check_host(headers.get(b"host"))
        check_length(headers, max_body_bytes)
    except BadRequestError as refusal:
        return head._replace(refusal=refusal)
    return head


def offered_settings(request: ParsedRequest) -> bytes | None:
    """Return the `http2-settings` of a request that offers HTTP/2, or None."""
    named = {name.strip() for name in request.headers.get(b"connection", b"").lower().split(b",")}
    protocols = [name.strip() for name in request.upgrade.lower().split(b",")]
    if b"h2c" not in protocols or not named >= {b"upgrade", b"http2-settings"}:
        return None
    settings = request.headers.get(b"http2-settings", b"")
    return settings if _SETTINGS.fullmatch(settings) else None
