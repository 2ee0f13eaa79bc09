# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Reads one HTTP/1.1 answer from a server's bytes; knows no socket, no loop and no clock.

Answers of the ordinary kind are read by `ext.http`, all others by httptools' complete parser; both give the
same, however the bytes are cut.
"""

from __future__ import annotations

import httptools

from cortex_site.http.states import BODY, END, ERROR, HEAD, MAX_HEAD_BYTES, WAITING, ReadState
from ext import http

# Puts the complete parser into the state in which the chunks of a body begin.
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


class AnswerReader:
    """The answer to one request. `state` (`cortex_site.http.states`) says how far it is.

    `feed` returns body bytes instead of events, so that a piece of a stream costs one call and no object.
    While `chunks` is not None, a caller may feed it directly; once it has stopped, `resume` continues.
    """

    __slots__ = (
        "_head_size",
        "_parser",
        "_parts",
        "chunks",
        "error",
        "headers",
        "keep_alive",
        "state",
        "status",
    )

    # Returns a whole head or None. As plain Python it is slower than the complete parser in C.
    read_head = staticmethod(http.answer if http.COMPILED else lambda _: None)

    def __init__(self, state: ReadState = WAITING) -> None:
        """With END it expects no answer."""
        self.state = state
        self.status = 0  # this and the headers are there from BODY on
        self.headers: dict[bytes, bytes] = {}  # by name in lower case
        self.keep_alive = False  # from END on: the connection may carry another exchange
        self.error = ""  # in ERROR: why
        self.chunks: http.Chunks | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._parts: list[bytes] = []  # of the body, while the parser runs
        self._head_size = 0

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in `data`. They belong to the answer even if `state` is then ERROR."""
        if self.chunks is not None:
            return self._feed_chunks(self.chunks, data)
        if self.state is WAITING:
            head = self.read_head(data)
            if head is not None and (head.chunked or head.size + head.length == len(data)):
                self.status, self.headers, self.keep_alive = head.status, head.headers, head.keep_alive
                if not head.chunked:
                    self.state = END
                    return data[head.size :]
                self.state, self.chunks = BODY, http.Chunks()
                return self._feed_chunks(self.chunks, data[head.size :])
            self.state = HEAD
        elif self.state is END or self.state is ERROR:
            self.keep_alive = False
            return b""
        return self._parse(data)

    def close(self) -> None:
        """End the connection. It ends a body that has neither length nor chunks, and cuts off any other."""
        is_framed = b"content-length" in self.headers or b"transfer-encoding" in self.headers
        if self.state is BODY and not is_framed:
            self.state = END
        self._fail("the connection was closed within the answer")

    # --- ordinary chunks ---

    def _feed_chunks(self, chunks: http.Chunks, data: bytes) -> bytes:
        body = chunks.feed(data)
        return body + self.resume() if chunks.stopped else body

    def resume(self) -> bytes:
        """Continue where `chunks` stopped. Return the body bytes that follow."""
        chunks, self.chunks = self.chunks, None
        assert chunks is not None
        assert chunks.stopped
        if chunks.odd:
            return self._parse((_CHUNKED_HEAD if self.keep_alive else _LAST_CHUNKED_HEAD) + chunks.rest)
        if chunks.broken:
            self._fail("not an HTTP answer: a chunk is longer than it said")
        else:
            self.state = END
            self.keep_alive = self.keep_alive and not chunks.rest
        return b""

    # --- all others; httptools calls `on_...` ---

    def _parse(self, data: bytes) -> bytes:
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"not an HTTP answer: {error}")
        except httptools.HttpParserUpgrade:
            self._fail("not an HTTP answer: the server changed to another protocol")
        if self.state is HEAD:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD_BYTES:
                self._fail(f"the answer's head is over {MAX_HEAD_BYTES} bytes")
        if self.state is END or self.state is ERROR:
            self._parser = None  # it holds the reader
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fail(self, why: str) -> None:
        self._parser = None
        if self.state is END:  # the answer is whole, the connection is not fit for another
            self.keep_alive = False
        elif self.state is not ERROR:
            self.state, self.error = ERROR, why

    def on_message_begin(self) -> None:
        if self.state is END:
            raise ValueError("more than one answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state is HEAD:  # not a trailer
            self.headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self.state is HEAD and status >= 200:  # 1xx heads announce the real one
            self.state, self.status = BODY, status

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.state is BODY:
            assert self._parser is not None
            self.state = END
            self.keep_alive = self._parser.should_keep_alive()  # it says so now, and not before
        else:
            self.headers, self._head_size = {}, 0
