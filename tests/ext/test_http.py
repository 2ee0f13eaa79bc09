"""`ext.http` beside httptools: where it reads anything at all, both say the same, whatever the bytes are."""

from __future__ import annotations

from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.ext.conftest import variants
from tests.stubs.damage import spoiled

MODULES = variants("http")
ALL = [module.values[0] for module in MODULES]


class Message:
    """What a complete parser makes of a message."""

    def __init__(self, kind, data: bytes) -> None:
        self.url, self.headers, self.body, self.complete, self.error = b"", [], b"", False, None
        self.parser = kind(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.error = error

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))  # which RFC 9110, 5.5 leaves to us

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()


REQUEST = (
    b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"authorization:Bearer sk-1 \r\nContent-Length: 5\r\n\r\nhello"
)
ANSWERS = [
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\nhello",
    b"HTTP/1.1 503 Out\r\nRetry-After: 3\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
]


def heads(name: str, data: bytes) -> list:
    """What the variants read; they agree."""
    found = [getattr(module, name)(data) for module in ALL]
    facts = ("method", "path", "query", "status", "headers", "length", "chunked", "keep_alive", "size")
    assert len({str(head and [getattr(head, fact) for fact in facts]) for head in found}) == 1
    return found


@settings(max_examples=500)
@given(spoiled([REQUEST]))
@example(REQUEST)
def test_a_request_is_read_as_a_complete_parser_reads_it(data):
    (head, *_) = heads("request", data)
    if head is None:
        return
    whole = data[: head.size + head.length]
    full = Message(httptools.HttpRequestParser, whole)
    assert full.error is None
    assert full.parser.get_method() == head.method.encode()
    assert full.url == (head.path.encode() + b"?" + head.query if b"?" in full.url else head.path.encode())
    assert full.headers == list(head.headers.items())
    if len(whole) == head.size + head.length:
        assert full.complete
        assert full.body == data[head.size : head.size + head.length]
        assert full.keep_alive == head.keep_alive


@settings(max_examples=500)
@given(spoiled(ANSWERS))
def test_an_answer_is_read_as_a_complete_parser_reads_it(data):
    (head, *_) = heads("answer", data)
    if head is None:
        return
    whole = data[: head.size + (0 if head.chunked else head.length)]
    full = Message(httptools.HttpResponseParser, whole)
    assert full.error is None
    assert full.parser.get_status_code() == head.status
    assert full.headers == list(head.headers.items())
    if not head.chunked and len(whole) == head.size + head.length:
        assert full.complete
        assert full.body == data[head.size : head.size + head.length]
        assert full.keep_alive == head.keep_alive


@pytest.mark.parametrize("module", MODULES)
def test_ordinary_messages_are_read_at_once(module):
    assert module.request(REQUEST).headers[b"authorization"] == b"Bearer sk-1"
    assert [answer is not None for answer in map(module.answer, ANSWERS)] == [True, True, True, False]


def read_chunks(module, pieces: list[bytes]) -> tuple[bytes, object]:
    chunks, body = module.Chunks(), b""
    for at, piece in enumerate(pieces):
        body += chunks.feed(piece)
        if chunks.stopped:
            rest = chunks.rest + b"".join(pieces[at + 1 :])
            return body, (chunks.ended, chunks.odd, chunks.broken, rest if not chunks.broken else b"")
    return body, "going on"


BODIES = [
    b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    b"00a\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
    b"3;q=1\r\nabc\r\n0\r\n\r\nmore",
]


@settings(max_examples=500)
@given(spoiled(BODIES), st.sets(st.integers(0, 60), max_size=6))
def test_chunks_are_read_as_a_complete_parser_reads_them(data, cuts):
    """Cut anywhere; what is odd is left to the parser, from the beginning of a chunk."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    (body, stop), *others = [read_chunks(module, pieces) for module in ALL]
    assert all(other == (body, stop) for other in others)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    full = Message(httptools.HttpResponseParser, head + data)
    match stop:
        case (True, False, False, _):
            assert (full.body, full.complete) == (body, True)
        case (False, True, False, rest):
            tail = Message(httptools.HttpResponseParser, head + rest)
            assert (full.body, full.complete, str(full.error)) == (
                body + tail.body,
                tail.complete,
                str(tail.error),
            )
        case (False, False, True, _):
            assert full.error is not None
        case _:
            assert (full.body, full.complete, full.error) == (body, False, None)


FACTS = ("method", "path", "query", "headers", "length", "keep_alive", "size")


@settings(max_examples=300)
@given(spoiled([REQUEST, REQUEST.replace(b": 5", b":  12"), REQUEST.replace(b"?x=1", b"")]))
@example(REQUEST.replace(b": 5", b": 1234567890123456"))
@example(REQUEST.replace(b": 5", b": "))
@example(REQUEST.replace(b": 5", b": 05"))
@example(REQUEST[:40])
def test_a_head_that_is_repeated_is_read_as_if_it_were_new(data):
    for module in ALL:
        head, new = module.request(REQUEST), module.request(data)
        if head.repeats(data):
            assert [getattr(head, fact) for fact in FACTS] == [getattr(new, fact) for fact in FACTS]


@pytest.mark.parametrize("module", MODULES)
def test_a_head_is_repeated_with_other_lengths(module):
    head = module.request(REQUEST)
    for size in (5, 1234, 0, 77):
        assert head.repeats(REQUEST.replace(b"Length: 5", b"Length: %d" % size))
        assert (head.length, head.headers[b"content-length"]) == (size, b"%d" % size)
    assert not head.repeats(REQUEST.replace(b"sk-1", b"sk-2"))
    assert not module.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").repeats(
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    )
