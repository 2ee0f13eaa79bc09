"""`AnswerReader`: the fast path and the complete parser make the same of any bytes, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortex_site.http.answer_reader import AnswerReader
from cortex_site.http.states import BODY, END, ERROR, HEAD, MAX_HEAD_BYTES, WAITING
from ext import http
from tests.http.conftest import watched
from tests.stubs.damage import in_pieces, spoiled


class Fast(watched(AnswerReader)):
    read_head = staticmethod(http.answer)


class Complete(watched(AnswerReader)):
    read_head = staticmethod(lambda _: None)


def head(*lines: bytes, status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""])


CHUNKED = head(b"transfer-encoding: chunked")
ANSWERS = [
    head(b"content-type: application/json", b"content-length: 5") + b"hello",
    head(b"Retry-After: 3", b"connection: close", b"content-length: 0", status=b"503 Out"),
    head(b"content-length: 0", status=b"204 No Content"),
    CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
    CHUNKED + b"3;q=1\r\nabc\r\n00a\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
    head(b"connection: close", b"transfer-encoding: chunked") + b"2;x\r\nab\r\n0\r\n\r\n",
    head(b"content-type: text/plain") + b"until the end",
    head(status=b"100 Continue") + head(b"content-length: 2") + b"ab",
    head(b"connection: upgrade", b"upgrade: h2c", status=b"101 Switching") + b"PRI * HTTP/2.0",
]


def read(kind: type[AnswerReader], pieces: list[bytes]) -> dict:
    """All that a reader says of an answer: as it stood when the connection ended, and then."""
    reader = kind()
    said = {"body": b"".join(reader.feed(piece) for piece in pieces), "state": reader.state}
    said["keep_alive"] = reader.state is END and reader.keep_alive
    reader.close()
    said["head"] = reader.status and (reader.status, reader.headers)
    return said | {"end": reader.state, "failed": bool(reader.error)}


def has_newlines_behind(data: bytes) -> bool:
    """They cost the connection, or are passed over: both are right."""
    reader = Complete()
    for at in range(len(data)):
        if reader.state is END:
            return not data[at:].strip(b"\r\n")
        reader.feed(data[at : at + 1])
    return False


@settings(max_examples=500)
@given(in_pieces(spoiled(ANSWERS) | st.binary(max_size=60)))
@example([head(b"content-length: 0") + b"\0"])
@example([CHUNKED, b"5\r\nhel", b"lo\r", b"\n0\r\n\r\nx"])
@example([head(b"transfer-encoding: chunked\t") + b"2;x\r\nab\r\n0\r\n\x80\n"])
def test_fast_and_complete_say_the_same_in_any_pieces(pieces):
    whole = [b"".join(pieces)] if pieces else []
    said, *others = [read(kind, cut) for kind in (Fast, Complete) for cut in (pieces, whole)]
    assert said["end"] in {END, ERROR}
    for other in others:
        if has_newlines_behind(b"".join(pieces)):
            other["keep_alive"] = said["keep_alive"]
        assert other == said


@pytest.mark.parametrize("kind", [AnswerReader, Fast, Complete])
@pytest.mark.parametrize("answer", ANSWERS[:-1])
def test_every_answer_ends(kind, answer):
    said = read(kind, [answer])
    assert (said["end"], said["failed"]) == (END, False)
    assert said["head"][0] in {200, 204, 503}


@pytest.mark.parametrize("kind", [Fast, Complete])
def test_states_follow_the_bytes(kind):
    reader, seen = kind(), []
    for piece in (b"HTTP/1.1 200 OK\r\n", b"transfer-encoding: chunked\r\n\r\n", b"1\r\na", b"\r\n0\r\n\r\n"):
        seen.append(reader.state)
        reader.feed(piece)
    assert [*seen, reader.state] == [WAITING, HEAD, BODY, BODY, END]


@pytest.mark.parametrize("kind", [Fast, Complete])
def test_what_follows_an_answer_costs_the_connection_alone(kind):
    reader = kind()
    assert reader.feed(ANSWERS[0]) == b"hello"
    assert reader.keep_alive
    assert reader.feed(b"more") == b""
    assert (reader.state, reader.keep_alive) == (END, False)


def test_a_change_of_protocol_is_no_answer():
    reader = AnswerReader()
    reader.feed(ANSWERS[-1])
    assert reader.state is ERROR
    assert "protocol" in reader.error


def test_a_head_that_does_not_end_is_an_error():
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(MAX_HEAD_BYTES // 1024):
        reader.feed(b"x" * 1024)
    assert (reader.state, reader.error) == (ERROR, f"the answer's head is over {MAX_HEAD_BYTES} bytes")


@pytest.mark.parametrize("fed", [b"", CHUNKED, CHUNKED + b"5\r\nhel", ANSWERS[0]])
def test_to_resume_before_the_chunks_have_stopped_is_a_mistake(fed):
    reader = Fast()
    reader.feed(fed)
    with pytest.raises(AssertionError):
        reader.resume()


def test_chunks_that_are_fed_apart_are_read_on():
    reader = Fast()
    reader.feed(CHUNKED)
    assert reader.chunks.feed(b"1\r\na\r\n") == b"a"
    assert reader.chunks.feed(b"1;odd\r\nb\r\n0\r\n\r\n") == b""
    assert reader.resume() == b"b"
    assert reader.state is END
