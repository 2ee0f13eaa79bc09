"""httptools' parser of requests, without its offer of other protocols."""

from __future__ import annotations

from typing import Protocol

import httptools


class RequestEvents(Protocol):
    """What a parser tells. Of a head that offers an upgrade it tells the beginning twice."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes, /) -> None: ...
    def on_header(self, name: bytes, value: bytes, /) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes, /) -> None: ...
    def on_message_complete(self) -> None: ...


class RequestParser:
    """Reads requests, and an offered upgrade as if it were not there (RFC 9110, 7.8).

    httptools takes what follows such a head for the other protocol's bytes: it drops the request's body, or
    reads it as the next request. So the head is read once more by a new parser, without the offer. CONNECT is
    an error: there is no tunnel.
    """

    def __init__(self, events: RequestEvents) -> None:
        self._events = events
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._offers = False  # the head that was just read has an offer that the request must not see
        self.offered = b""  # in the head that was read
        self._parser = self._new_parser()

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a last request is dropped by who reads; it must not spoil that request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def feed_data(self, data: bytes) -> None:
        """Raises `httptools.HttpParserError`."""
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offered:
                data = self._head_without_offer() + data[offered.args[0] :]
                self._offers = False
                self._parser = self._new_parser()
            else:
                return

    def _head_without_offer(self) -> bytes:
        self.offered = b",".join(value for name, value in self._headers if name.lower() == b"upgrade")
        version = self._parser.get_http_version().encode("ascii")
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0].lower() != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def close(self) -> None:
        """Read no more. It and httptools' parser refer to each other until then."""
        del self._parser

    def get_method(self) -> bytes:
        method: bytes = self._parser.get_method()
        return method

    def get_http_version(self) -> str:
        version: str = self._parser.get_http_version()
        return version

    def should_keep_alive(self) -> bool:
        return bool(self._parser.should_keep_alive())

    def should_upgrade(self) -> bool:
        return False

    # --- httptools calls these ---

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", []
        self._events.on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._events.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._events.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._parser.get_method() == b"CONNECT":
            raise ValueError("CONNECT is not served")
        self._offers = bool(self._parser.should_upgrade())
        if not self._offers:
            self._events.on_headers_complete()
            self.offered = b""

    def on_body(self, body: bytes) -> None:
        self._events.on_body(body)

    def on_message_complete(self) -> None:
        if not self._offers:
            self._events.on_message_complete()
