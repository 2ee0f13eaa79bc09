"""`RequestReader`: the fast path and the complete parser make the same of any bytes, however they are cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cortex_site.http.request_reader import RequestReader
from cortex_site.http.states import BODY, END, ERROR, HEAD, MAX_HEAD_BYTES, WAITING
from ext import http
from tests.http.conftest import watched
from tests.stubs.damage import in_pieces, spoiled

MAX_BODY = 100


class Fast(watched(RequestReader)):
    read_head = staticmethod(http.request)


class Complete(watched(RequestReader)):
    read_head = staticmethod(lambda _: None)


def head(*lines: bytes, line: bytes = b"POST /v1/chat?x=1 HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: a", *lines, b"", b""])


PLAIN = head(b"Content-Type: application/json", b"content-length: 5 ") + b"hello"
CHUNKED = head(b"transfer-encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n"
LAST = head(b"connection: close", b"content-length: 0")
OLD = head(b"connection: keep-alive", line=b"GET /a%20b HTTP/1.0")
EXPECTING = head(b"expect: 100-Continue", b"content-length: 2") + b"ab"
LARGE = head(b"content-length: 101")
LARGE_CHUNK = head(b"transfer-encoding: chunked") + b"65\r\n" + b"x" * 101
UPGRADE = head(b"connection: upgrade", b"upgrade: h2c", line=b"GET //a/b;c?d?e HTTP/1.1")
H2C = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAA"]
UPGRADE_LENGTH = head(*H2C, b"content-length: 5") + b"hello"
UPGRADE_CHUNKED = head(b"transfer-encoding: chunked", *H2C) + b"5\r\nhello\r\n0\r\n\r\n"
UPGRADES = [UPGRADE_LENGTH, UPGRADE_CHUNKED]
REQUESTS = [PLAIN, CHUNKED, LAST, OLD, EXPECTING, LARGE, LARGE_CHUNK, UPGRADE, *UPGRADES]


def read(kind: type[RequestReader], pieces: list[bytes]) -> dict:
    """All that a reader says of a connection: as it stood when that ended, and then."""
    reader = kind(MAX_BODY)
    requests = [request for piece in pieces for request in reader.feed(piece)]
    state, awaits_continue = reader.state, reader.awaits_continue
    reader.close()
    told = [
        (*request[:-1], str(request.refusal), getattr(request.refusal, "status", 0)) for request in requests
    ]
    return {"requests": told, "awaits_continue": awaits_continue, "state": state, "end": reader.state}


def feed(kind: type[RequestReader], *pieces: bytes) -> tuple[list, RequestReader]:
    reader = kind(MAX_BODY)
    return [request for piece in pieces for request in reader.feed(piece)], reader


@settings(max_examples=500)
@given(in_pieces(st.lists(spoiled(REQUESTS), min_size=1, max_size=3).map(b"".join) | st.binary(max_size=60)))
@example([PLAIN, PLAIN[:9], PLAIN[9:]])
@example([UPGRADE + PLAIN])
@example([LAST + PLAIN])
def test_fast_and_complete_say_the_same_in_any_pieces(pieces):
    whole = [b"".join(pieces)]
    said, *others = [read(kind, cut) for kind in (Fast, Complete) for cut in (pieces, whole)]
    assert all(other == said for other in others)
    assert said["end"] in {END, ERROR}
    assert not any(
        request.keep_alive for request in feed(Fast, *pieces)[0][-1:] if said["state"] in {END, ERROR}
    )


@pytest.mark.parametrize("kind", [RequestReader, Fast, Complete])
def test_requests_of_one_piece_come_in_order(kind):
    requests, reader = feed(kind, PLAIN + CHUNKED + UPGRADE + PLAIN)
    assert [request.body for request in requests] == [b"hello", b"hello", b"", b"hello"]
    assert [request.path for request in requests] == ["/v1/chat", "/v1/chat", "//a/b;c", "/v1/chat"]
    assert requests[2].query == b"d?e"
    assert requests[0].headers[b"content-length"] == b"5"
    assert reader.state is WAITING


@pytest.mark.parametrize("kind", [Fast, Complete])
@pytest.mark.parametrize("last", [LAST, OLD], ids=["close", "1.0"])
def test_nothing_is_read_behind_the_last_request(kind, last):
    requests, reader = feed(kind, PLAIN + last + PLAIN, PLAIN)
    assert [request.keep_alive for request in requests] == [True, False]
    assert reader.state is END


@pytest.mark.parametrize(
    ("data", "status", "path"),
    [
        (LARGE, 413, "/v1/chat"),
        (LARGE_CHUNK, 413, "/v1/chat"),
        (head(line=b"POST http://[ HTTP/1.1"), 400, "/"),
        (b"\0\1", 400, "/"),
        (head(b"transfer-encoding: chunked") + b"zz\r\n", 400, "/v1/chat"),
    ],
    ids=["length", "chunks", "target", "noise", "chunk-size"],
)
def test_a_refusal_is_the_last_thing_read(data, status, path):
    requests, reader = feed(Fast, PLAIN + data, b"x" * 200, PLAIN)
    assert [request.refusal and request.refusal.status for request in requests] == [None, status]
    assert requests[1].path == path
    assert reader.state is ERROR


@pytest.mark.parametrize("offer", UPGRADES, ids=["length", "chunks"])
@pytest.mark.parametrize("kind", [Fast, Complete])
def test_the_body_behind_an_upgrade_is_a_body_however_it_is_cut(kind, offer):
    for at in range(1, len(offer)):
        requests, reader = feed(kind, PLAIN + offer[:at], offer[at:] + PLAIN)
        assert [request.body for request in requests] == [b"hello"] * 3
        assert all(request.method == "POST" and request.path == "/v1/chat" for request in requests)
        assert requests[1].keep_alive
        assert b"upgrade" not in requests[1].headers
        assert reader.state is WAITING


@pytest.mark.parametrize("kind", [Fast, Complete])
def test_a_request_in_the_body_behind_an_upgrade_is_not_run(kind):
    offer = head(*H2C, b"content-length: %d" % len(PLAIN))
    requests, _ = feed(kind, offer, PLAIN)
    assert [request.body for request in requests] == [PLAIN]


@pytest.mark.parametrize(
    ("lines", "bodies"),
    [
        ([b"content-length: 101"], [None]),
        ([b"content-length: 5", b"transfer-encoding: chunked"], [None]),
        ([b"content-length: 5", b"content-length: 6"], [None]),
        ([b"content-length: 5", b"connection: close"], [b"hello"]),
    ],
    ids=["too-large", "two-framings", "two-lengths", "last"],
)
def test_an_upgrade_excuses_nothing(lines, bodies):
    requests, reader = feed(Complete, head(*H2C, *lines) + b"hello" + PLAIN)
    assert [None if request.refusal else request.body for request in requests] == bodies
    assert not requests[-1].keep_alive
    assert reader.state in {END, ERROR}


@pytest.mark.parametrize("target", [b"example.org:80", b"/v1/chat", b"http://a/v1/chat"])
def test_there_is_no_tunnel_behind_connect(target):
    requests, reader = feed(Complete, head(line=b"CONNECT " + target + b" HTTP/1.1") + PLAIN, PLAIN)
    assert requests[0].refusal
    assert all(request.refusal for request in requests)
    assert reader.state is ERROR


@pytest.mark.parametrize("kind", [Fast, Complete])
def test_states_follow_the_bytes(kind):
    reader, seen = kind(MAX_BODY), []
    for piece in (PLAIN, b"POST / HTTP/1.1\r\nhost: a\r\n", b"content-length: 2\r\n\r\n", b"a", b"b", LAST):
        seen.append(reader.state)
        reader.feed(piece)
    assert [*seen, reader.state] == [WAITING, WAITING, HEAD, BODY, BODY, WAITING, END]


def test_a_client_awaits_continue_until_its_body_comes():
    reader = RequestReader(MAX_BODY)
    assert not reader.feed(EXPECTING[:-2])
    assert reader.awaits_continue
    assert not reader.feed(b"a")
    assert not reader.awaits_continue
    assert [request.body for request in reader.feed(b"b" + PLAIN)] == [b"ab", b"hello"]
    assert not reader.awaits_continue


def test_a_head_that_does_not_end_is_refused():
    endless = [b"GET / HTTP/1.1\r\nx: ", *[b"x" * 1024] * (MAX_HEAD_BYTES // 1024)]
    (request,), reader = feed(RequestReader, *endless)
    assert request.refusal.status == 431
    assert str(request.refusal) == f"The request's head is over {MAX_HEAD_BYTES} bytes."
    assert reader.state is ERROR


def test_a_body_does_not_count_for_the_head_behind_it():
    reader = RequestReader(2 * MAX_HEAD_BYTES)
    large = head(b"content-length: %d" % (MAX_HEAD_BYTES + 1)) + b"x" * (MAX_HEAD_BYTES + 1)
    requests = [*reader.feed(large + PLAIN[:9]), *reader.feed(PLAIN[9:])]
    assert [request.refusal for request in requests] == [None, None]


@pytest.mark.parametrize("kind", [Fast, Complete])
@pytest.mark.parametrize(
    "hosts",
    [[], [b"a", b"a"], [b"a", b"b"], [b"a b"], [b"a/b"], [b"user@a"], [b"a:b"], [b"[::1"], [b"a,b c"]],
    ids=str,
)
def test_a_request_without_one_host_is_refused(kind, hosts):
    lines = [b"GET / HTTP/1.1", *(b"host: " + host for host in hosts), b"", b""]
    requests, reader = feed(kind, PLAIN + b"\r\n".join(lines))
    assert [request.refusal and request.refusal.status for request in requests] == [None, 400]
    assert reader.state is ERROR


@pytest.mark.parametrize("kind", [Fast, Complete])
@pytest.mark.parametrize("host", [b"", b"a", b"a.b-c_d:80", b"127.0.0.1", b"[::1]:8080", b"%41", b"a:"])
def test_any_host_that_a_uri_may_name_is_read(kind, host):
    (request,), _ = feed(kind, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (request.refusal, request.headers[b"host"]) == (None, host)


def test_http_1_0_needs_no_host():
    (request,), _ = feed(Complete, b"GET / HTTP/1.0\r\n\r\n")
    assert request.refusal is None


@pytest.mark.parametrize(
    ("line", "coding", "status"),
    [
        (b"POST / HTTP/1.1", b"gzip, chunked", 501),
        (b"POST / HTTP/1.1", b"gzip", 501),
        (b"POST / HTTP/1.0", b"chunked", 400),
    ],
)
def test_of_transfer_codings_only_chunked_is_known(line, coding, status):
    (request,), reader = feed(Complete, head(b"transfer-encoding: " + coding, line=line) + b"0\r\n\r\n")
    assert request.refusal.status == status
    assert reader.state is ERROR


def test_trailers_are_not_headers_and_not_endless():
    framed = head(b"transfer-encoding: chunked") + b"5\r\nhello\r\n0\r\n"
    (request,), _ = feed(Complete, framed + b"x-mine: 1\r\ncontent-type: text/plain\r\n\r\n")
    assert request.body == b"hello"
    assert set(request.headers) == {b"host", b"transfer-encoding"}
    endless = [b"x-mine: " + b"x" * 1024, *[b"x" * 1024] * (MAX_HEAD_BYTES // 1024)]
    (request,), reader = feed(Complete, framed, *endless)
    assert request.refusal.status == 431
    assert reader.state is ERROR


def test_a_request_is_judged_by_its_head_before_its_body_is_there():
    seen = []

    def judge(request):
        seen.append((request.path, request.body))
        return PermissionError("no") if request.headers.get(b"x-no") else None

    reader = RequestReader(MAX_BODY, judge)
    assert not reader.feed(head(b"content-length: 5"))
    assert [request.body for request in reader.feed(b"hello")] == [b"hello"]
    (refused,) = reader.feed(head(b"x-no: 1", b"content-length: 5"))
    assert isinstance(refused.refusal, PermissionError)
    assert not refused.keep_alive
    assert not reader.feed(b"hello")
    assert reader.body_size == 0
    assert seen == [("/v1/chat", b"")] * 2
