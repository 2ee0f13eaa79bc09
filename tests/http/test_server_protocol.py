"""Any bytes on a client's connection: a well-formed HTTP answer, or the end of the connection."""

from __future__ import annotations

import asyncio
import logging

import pytest
import uvicorn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from cortex_site.http.http2_connection import PREFACE
from cortex_site.http.protocol import ServerProtocol
from cortex_site.http.request_reader import RequestReader
from tests.http.server import BODY_LIMIT, Answers, make_app, request
from tests.stubs.damage import in_pieces
from tests.stubs.fake_transport import FakeTransport


class Errors(logging.Handler):
    """What is logged as one, by whomever."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


@pytest.fixture(scope="module")
def protocol_of():
    with asyncio.Runner() as runner:
        config = uvicorn.Config(
            make_app(), lifespan="off", log_config=None, ws="none", http=ServerProtocol, proxy_headers=False
        )
        config.load()
        errors = Errors()

        def run(pieces) -> Answers:
            answers = runner.run(serve(config, pieces))
            assert not errors.messages
            return answers

        with errors:
            yield run


async def serve(config: uvicorn.Config, pieces: list[bytes]) -> Answers:
    """Feed the pieces to a connection, let everything settle, then hang up."""
    loop = asyncio.get_running_loop()
    state = ServerState()
    failures: list[dict] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    protocol = ServerProtocol(config=config, server_state=state, app_state={}, _loop=loop)
    transport = FakeTransport(protocol)
    protocol.connection_made(transport)
    for piece in pieces:
        if not transport.is_closing():
            protocol.data_received(piece)
        await asyncio.sleep(0)
    while state.tasks:
        await asyncio.wait(state.tasks)
        await asyncio.sleep(0)
    ended = transport.is_closing()
    transport.close()
    await asyncio.sleep(0)
    assert not state.connections
    assert not state.tasks
    assert not failures, failures
    return Answers(bytes(transport.written), ended=ended)


async def test_a_client_is_told_to_continue_after_the_answer_before():
    config = uvicorn.Config(
        make_app(), lifespan="off", log_config=None, ws="none", http=ServerProtocol, proxy_headers=False
    )
    config.load()
    state = ServerState()
    protocol = ServerProtocol(config=config, server_state=state, app_state={})
    transport = FakeTransport(protocol)
    protocol.connection_made(transport)
    protocol.data_received(request(b"POST", b"/stream", [b"content-length: 0"], b""))
    await asyncio.sleep(0)  # the first chunk is written
    protocol.data_received(request(b"POST", b"/echo", [b"content-length: 3", b"expect: 100-continue"], b""))
    assert b"100 Continue" not in transport.written
    await asyncio.wait(state.tasks)
    assert transport.written.endswith(b"0\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
    protocol.data_received(b"abc")
    await asyncio.wait(state.tasks)
    assert Answers(bytes(transport.written), ended=False).statuses == [200, 100, 200]
    assert transport.written.count(b"100 Continue") == 1
    transport.close()
    await asyncio.sleep(0)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


bodies = st.binary(max_size=2 * BODY_LIMIT) | st.binary(min_size=1, max_size=50)
good = st.builds(
    lambda path, body, framed: request(
        b"POST",
        path,
        [b"transfer-encoding: chunked" if framed and body else b"content-length: %d" % len(body)],
        chunked(body) if framed and body else body,
    ),
    st.sampled_from([b"/echo", b"/stream", b"/none"]),
    bodies,
    st.booleans(),
)


@st.composite
def damaged(draw) -> bytes:
    """A few requests in a row, with a few bytes changed, cut out or put in."""
    data = bytearray(b"".join(draw(st.lists(good, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(data)


@settings(max_examples=300)
@given(in_pieces(damaged() | st.binary(max_size=300)))
def test_any_bytes_get_whole_answers_or_the_end(protocol_of, pieces):
    assume(not b"".join(pieces).startswith(PREFACE))  # what follows is another protocol
    answers = protocol_of(pieces)
    assert answers.whole == len([status for status in answers.statuses if status != 100])
    assert set(answers.statuses) <= {100, 200, 400, 404, 405, 413, 501}
    reader = RequestReader(BODY_LIMIT)
    assert answers.whole == sum(len(reader.feed(piece)) for piece in pieces)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (request(b"POST", b"/echo", [b"connection: close", b"content-length: 1"], b"y"), 200),
        (request(b"POST", b"/echo", [b"content-length: 2000"], b""), 413),
        (b"no HTTP\r\n\r\n", 400),
    ],
    ids=["close", "too-large", "malformed"],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_last_request_is_answered_behind_those_before_it(protocol_of, last, status, together):
    before = [request(b"POST", b"/stream", [b"content-length: 1"], b"x")] * 2
    pieces = [b"".join([*before, last])] if together else [*before, last]
    answers = protocol_of(pieces)
    assert answers.statuses == [200, 200, status]
    assert answers.closes == [False, False, True]


def test_a_client_of_http_1_0_knows_the_end_by_the_connections(protocol_of):
    old = b"POST /stream HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx"
    answers = protocol_of([old])
    assert answers.statuses == [200]
    assert answers.closes == [True]
    assert answers.ended


@settings(max_examples=100)
@given(st.lists(good, min_size=1, max_size=3).flatmap(lambda many: in_pieces(st.just(b"".join(many)))))
def test_good_requests_are_answered_however_they_are_cut(protocol_of, pieces):
    answers = protocol_of(pieces)
    assert answers.whole == len(answers.statuses) >= 1
    assert 400 not in answers.statuses
