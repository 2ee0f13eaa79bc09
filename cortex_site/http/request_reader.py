# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Reads a client's HTTP/1.1 requests from its bytes; knows no socket, no loop and no clock.

Requests of the ordinary kind are read by `ext.http`, all others by httptools' complete parser; both give the
same, however the bytes are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import httptools

from cortex_site.http.parsed_request import (
    NOTHING_READ,
    BadRequestError,
    ParsedRequest,
    check_coding,
    check_host,
    check_length,
    is_host,
    split_target,
    too_large,
)
from cortex_site.http.request_parser import RequestParser
from cortex_site.http.states import BODY, END, ERROR, HEAD, MAX_HEAD_BYTES, WAITING
from ext import http


class RequestReader:
    """The requests of one connection, in order. `state` (`cortex_site.http.states`) is of the one under way.

    A request that is refused, and one that ends its connection, is the last: what follows is dropped. The
    head of a request whose body has not come yet is shown to `judge`, which may refuse it by an exception
    that it returns: then no body is read.
    """

    __slots__ = (
        "_head",
        "_head_size",
        "_headers",
        "_host",
        "_judge",
        "_max_body_bytes",
        "_parser",
        "_parts",
        "_piece_size",
        "_request",
        "_requests",
        "_trailer_size",
        "_url",
        "body_size",
        "peer",
        "state",
    )

    # Returns a whole head or None. As plain Python it is slower than the complete parser in C.
    read_head = staticmethod(http.request if http.COMPILED else lambda _: None)

    def __init__(
        self, max_body_bytes: int, judge: Callable[[ParsedRequest], Exception | None] = lambda _: None
    ) -> None:
        self.state = WAITING
        self.body_size = 0  # bytes that are held of a body that is not whole
        self.peer = ""  # the client's address, which each request bears
        self._max_body_bytes = max_body_bytes
        self._judge = judge
        self._head: http.Head | None = None  # the last of the ordinary kind
        self._host = b""  # the last that was looked at
        self._parser: RequestParser | None = None
        self._requests: list[ParsedRequest] = []  # that the piece under way completed
        self._piece_size = self._head_size = 0
        self._request = NOTHING_READ  # as far as it is read
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []  # of the body
        self._trailer_size = 0  # of what came behind the last piece of the body, framing included

    def forget_head(self) -> None:
        """Forget what makes the next request quick to read, until that comes."""
        self._head = None

    def feed(self, data: bytes) -> Sequence[ParsedRequest]:
        """Return the requests that `data` completes, and the one that has to be refused for it."""
        if self.state is WAITING:
            head = self._head
            if head is None or not head.repeats(data):
                head = self._head = self.read_head(data)
            if (
                head is not None
                and head.size + head.length == len(data)
                and head.length <= self._max_body_bytes
                and self._knows_host(head.headers.get(b"host"))
            ):
                if not head.keep_alive:
                    self.state = END
                body = data[head.size :]
                whole = head.method, head.path, head.query, "1.1", head.headers, body, head.keep_alive, b""
                # Without the class's own `__new__`, which is Python.
                return (tuple.__new__(ParsedRequest, (*whole, self.peer, None)),)
        elif self.state is END or self.state is ERROR:
            return ()
        return self._parse(data)

    @property
    def awaits_continue(self) -> bool:
        """True while the client waits for `100 Continue` before it sends the body under way."""
        expects = self.state is BODY and not self.body_size
        return expects and self._headers.get(b"expect", b"").lower() == b"100-continue"

    def refuse(self, refusal: Exception) -> Sequence[ParsedRequest]:
        """Return the request under way, refused for a reason that is not in its bytes."""
        self._refuse(refusal)
        self._forget_parser()
        requests, self._requests = self._requests, []
        return requests

    def _knows_host(self, host: bytes | None) -> bool:
        if host is not None and host != self._host and is_host(host):
            self._host = host
        return host == self._host

    def close(self) -> None:
        """The client ended the connection."""
        self._parts, self.body_size = [], 0
        self._forget_parser()
        if self.state is WAITING:
            self.state = END
        elif self.state is not END:
            self.state = ERROR

    # --- what is not ordinary; the parser calls `on_...` ---

    def _parse(self, data: bytes) -> Sequence[ParsedRequest]:
        self._piece_size = len(data)
        try:
            if self._parser is None:
                self._parser = RequestParser(self)
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._refuse(BadRequestError(400, "Invalid HTTP request received."))
        self._head_size = self._head_size + len(data) if self.state is HEAD else 0
        self._trailer_size = self._trailer_size + len(data) if self.state is BODY else 0
        if self._head_size > MAX_HEAD_BYTES:
            self._refuse(BadRequestError(431, f"The request's head is over {MAX_HEAD_BYTES} bytes."))
        if self._trailer_size > MAX_HEAD_BYTES:
            self._refuse(BadRequestError(431, f"The body's trailers are over {MAX_HEAD_BYTES} bytes."))
        if self.state is END or self.state is ERROR:
            self._forget_parser()
        requests, self._requests = self._requests, []
        return requests

    def _forget_parser(self) -> None:
        if self._parser is not None:
            self._parser.close()
            self._parser = None  # it holds the reader

    def _refuse(self, refusal: Exception) -> None:
        if self.state is not END and self.state is not ERROR:
            self.state, self._parts, self.body_size = ERROR, [], 0
            self._requests.append(self._request._replace(keep_alive=False, refusal=refusal))

    def on_message_begin(self) -> None:
        if self.state is WAITING or self.state is HEAD:  # the latter: it reads the same head once more
            self.state = HEAD
            self._url, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state is not HEAD:  # a trailer (RFC 9110, 6.5.1)
            return
        name = name.lower()
        if name == b"host" and name in self._headers:
            self._headers[name] = b"two of them"  # no host
        self._headers.setdefault(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self.state is not HEAD:
            return
        assert self._parser is not None
        self.state = BODY
        version = self._parser.get_http_version()
        self._request = ParsedRequest(
            method=self._parser.get_method().decode("ascii"),
            version=version,
            headers=self._headers,
            keep_alive=version != "1.0" and self._parser.should_keep_alive(),
            upgrade=self._parser.offered,
            peer=self.peer,
        )
        try:
            path, query = split_target(self._url)
            self._request = self._request._replace(path=path, query=query)
            self._check_host(version)
            check_coding(self._headers, version)
            check_length(self._headers, self._max_body_bytes)
        except BadRequestError as error:
            self._refuse(error)
        else:
            if (refusal := self._judge(self._request)) is not None:
                self._refuse(refusal)

    def _check_host(self, version: str) -> None:
        """Raises `BadRequestError` as RFC 9112, 3.2 says. HTTP/1.0 has no need of a host."""
        host = self._headers.get(b"host")
        if host is None and version == "1.0":
            return
        if not self._knows_host(host):
            check_host(host)

    def on_body(self, body: bytes) -> None:
        if self.state is BODY:
            self._trailer_size = -self._piece_size  # what is left of this piece is not counted
            self._parts.append(body)
            self.body_size += len(body)
            if self.body_size > self._max_body_bytes:
                self._refuse(too_large(self._max_body_bytes))

    def on_message_complete(self) -> None:
        if self.state is BODY:
            parts, self._parts, self.body_size = self._parts, [], 0
            request, self._request = self._request, NOTHING_READ
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            self._requests.append(request._replace(body=body))
            self.state = WAITING if request.keep_alive else END
            self._head_size = -self._piece_size  # what is left of this piece is not counted for the next head
