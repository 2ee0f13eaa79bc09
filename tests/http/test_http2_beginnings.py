"""How a client comes to speak HTTP/2, and any frames whatever of one that does."""

from __future__ import annotations

import asyncio
import base64
import struct

import pytest
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex_site.http import http2_connection
from cortex_site.http.bounds import RequestBounds
from tests.http.http2_client import HEAD, Http2Client
from tests.http.server import BODY_LIMIT, Answers, make_app, request

ROOMY = RequestBounds(1 << 22)


def upgrading(body: bytes, settings_of: bytes, *extra: bytes) -> bytes:
    offer = [b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: " + settings_of]
    return request(b"POST", b"/echo", [*offer, *extra, b"content-length: %d" % len(body)], body)


SETTINGS = base64.urlsafe_b64encode(struct.pack(">HI", 4, 1 << 20)).rstrip(b"=")


@pytest.mark.parametrize("cut", [0, 40, 200, 230])
async def test_an_upgrade_is_answered_in_http2(cut):
    client = Http2Client(make_app(ROOMY))
    client.h2.initiate_upgrade_connection()
    preface = client.h2.data_to_send()
    data = upgrading(b"hello" * 20, SETTINGS)
    client.send(data[:cut] or data)
    if cut:
        client.send(data[cut:])
    head, _, rest = bytes(client.transport.written).partition(b"\r\n\r\n")
    assert head == b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: h2c"
    client.transport.written[:] = rest
    client.send(preface)
    await client.settle()
    assert (client.status(1), client.body(1), client.is_whole(1)) == (200, b"hello" * 20, True)
    second = client.ask("/stream")
    await client.settle()
    assert client.is_whole(second)
    await client.end()


OFF = RequestBounds(BODY_LIMIT, http2=None)


@pytest.mark.parametrize(
    ("data", "bounds"),
    [
        (upgrading(b"hello", SETTINGS), OFF),
        (upgrading(b"hello", b"!!"), ROOMY),
        (upgrading(b"hello", b"AAAA"), ROOMY),
        (upgrading(b"hello", SETTINGS).replace(b"h2c", b"websocket"), ROOMY),
        (upgrading(b"hello", SETTINGS).replace(b", HTTP2-Settings", b""), ROOMY),
        (upgrading(b"hello", SETTINGS) + request(b"POST", b"/stream", [b"content-length: 0"], b""), ROOMY),
    ],
    ids=["off", "no-base64", "no-settings", "websocket", "not-named", "pipelined"],
)
async def test_an_upgrade_that_is_none_is_ignored(data, bounds):
    client = Http2Client(make_app(bounds))
    client.send(data)
    for _ in range(20):
        await asyncio.sleep(0)
    answers = bytes(client.transport.written)
    assert b"hello" in answers
    assert set(Answers(answers, ended=False).statuses) == {200}
    await client.end()


async def test_prior_knowledge_is_taken_for_nothing_where_http2_is_off():
    client = Http2Client(make_app(OFF))
    client.send(http2_connection.PREFACE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert Answers(bytes(client.transport.written), ended=False).statuses == [400]
    await client.end()


@pytest.mark.parametrize("size", [1, 3, 20, 30])
async def test_the_preface_may_come_in_pieces(size):
    client = Http2Client(make_app(ROOMY))
    client.h2.initiate_connection()
    stream = 1
    client.h2.send_headers(stream, [*HEAD, (":path", "/stream")], True)
    data = client.h2.data_to_send()
    for at in range(0, len(data), size):
        client.send(data[at : at + size])
        await asyncio.sleep(0)
    await client.settle()
    assert client.is_whole(stream)
    await client.end()


# --- anything ---

FRAMES = st.builds(
    lambda kind, flags, stream, payload: (
        struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
    ),
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 32, 37]),
    st.sampled_from([0, 1, 1, 3, 5]),
    st.binary(max_size=40) | st.just(b"\0\0\0\1") | st.just(struct.pack(">HI", 4, 9)),
)


@st.composite
def sent(draw) -> list[bytes]:
    """A good client's bytes with frames of any kind in between, and a few bytes changed."""
    client = H2Connection()
    client.initiate_connection()
    pieces = [client.data_to_send()]
    for stream in (1, 3, 5):
        client.send_headers(
            stream,
            [*HEAD, (":path", draw(st.sampled_from(["/echo", "/stream", "/none"])))],
        )
        client.send_data(stream, draw(st.binary(max_size=1200)), end_stream=draw(st.booleans()))
        pieces.append(client.data_to_send())
        pieces += draw(st.lists(FRAMES, max_size=3))
    data = bytearray(b"".join(pieces[1:]))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    cut = draw(st.integers(0, len(data)))
    return [pieces[0], bytes(data[:cut]), bytes(data[cut:])]


@settings(max_examples=300)
@given(sent())
def test_any_frames_get_answers_or_the_end(pieces):
    async def run() -> None:
        failures: list[dict] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        client = Http2Client(make_app(), max_concurrent_streams=10)
        for piece in pieces:
            if piece and not client.transport.is_closing():
                client.transport.get_protocol().data_received(piece)
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        await client.end()
        assert not failures, failures

    asyncio.run(run())
