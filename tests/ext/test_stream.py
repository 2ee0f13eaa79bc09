"""`ext.stream`: what a node sends comes out at the client's end, however it is cut and whoever is slow."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext import http, sse
from tests.ext.conftest import load_source, variants

# A compiled class takes compiled parts only.
PARTS = {"python": (load_source("http"), load_source("sse")), "compiled": (http, sse)}
MODULES = [pytest.param((module.values[0], *PARTS[module.id]), id=module.id) for module in variants("stream")]


@pytest.fixture(params=MODULES)
def made_of(request):
    return request.param


class Flow:
    write_paused = False


class Owner:
    """What a connection hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.error: Exception | None = None

    def on_full(self) -> None:
        self.heard.append("full")

    def on_stopped(self) -> None:
        self.heard.append("stopped")

    def on_failed(self, error: Exception) -> None:
        self.error = error

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.heard.append("lost")

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


class Line:
    """A whole line from a node to a client, with a clock that ticks at each look."""

    def __init__(self, made_of, *, rewrite=None, hide_usage=False, chunked=True) -> None:
        stream, http, sse = made_of
        self.written, self.flow, self.owner, self.now = bytearray(), Flow(), Owner(), 0.0
        self.outlet = stream.Outlet(self.written.extend, self.flow, chunked)
        self.scanner = sse.SSEScanner(hide_usage)
        self.tap = stream.Tap(self.scanner, rewrite, self.outlet, (2.0, 3.0))
        self.inlet = stream.Inlet(http.Chunks(), self.tap, self.owner, self.clock)

    def clock(self) -> float:
        self.now += 1.0
        return self.now


class Body:
    def __init__(self, data: bytes) -> None:
        self.body = b""
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + data)

    def on_body(self, data: bytes) -> None:
        self.body += data


def event(content: str, finish: str = "null") -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n' % (
        content.encode(),
        finish.encode(),
    )


EVENTS = [event(""), event("Hel"), event("lo"), event("", '"stop"'), b"data: [DONE]\n\n"]


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@given(st.sets(st.integers(0, 400), max_size=12))
def test_a_stream_passes_whole_however_it_is_cut(cuts):
    data = b"".join(map(framed, EVENTS)) + b"0\r\n\r\n"
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for made_of in (module.values[0] for module in MODULES):
        line = Line(made_of)
        for a, b in pairwise(edges):
            line.inlet.data_received(data[a:b])
        assert Body(bytes(line.written)).body == b"".join(EVENTS)
        assert line.owner.heard == ["stopped"]
        assert b'"stop"' in line.scanner.finish


def test_what_is_seen_and_when(made_of):
    line = Line(made_of)
    for piece in map(framed, EVENTS):
        line.inlet.data_received(piece)
    assert line.tap.first_token == 3.0  # the inlet looked at the clock before; the first piece says nothing
    assert (line.tap.first, line.tap.last) == (2.0, 6.0)
    assert line.inlet.heard_at == 6.0


def test_gaps_are_counted_by_bucket(made_of):
    line = Line(made_of)
    for pause in (0.0, 1.0, 1.5, 2.0, 9.0):  # and the second that the look takes
        line.now += pause
        line.tap.take(EVENTS[1], line.clock())
    assert line.tap.gaps == [1, 2, 1]
    assert line.tap.last - line.tap.first == 17.5


def test_a_slow_client_is_told_of_at_once(made_of):
    line = Line(made_of)
    line.inlet.data_received(framed(EVENTS[0]))
    line.flow.write_paused = True
    line.inlet.data_received(framed(EVENTS[1]))
    assert line.owner.heard == ["full"]
    assert Body(bytes(line.written)).body == EVENTS[0] + EVENTS[1]  # it was taken all the same


def test_a_rewriter_that_fails_is_the_owners_to_hear(made_of):
    def rewrite(data: bytes) -> bytes:
        raise ValueError("no")

    line = Line(made_of, rewrite=rewrite)
    line.inlet.data_received(framed(EVENTS[0]))
    assert isinstance(line.owner.error, ValueError)
    assert not line.written


def test_what_is_hidden_or_rewritten_to_nothing_is_no_chunk(made_of):
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    line = Line(made_of, hide_usage=True)
    line.inlet.data_received(framed(usage))
    assert not line.written  # an empty chunk would be the end
    line = Line(made_of, rewrite=lambda data: data.upper(), chunked=False)
    line.inlet.data_received(framed(b"data: {x}\n\n"))
    assert line.written == b"DATA: {X}\n\n"


def test_the_rest_of_a_protocols_life_is_the_owners(made_of):
    line = Line(made_of)
    assert line.inlet.eof_received() is False
    line.inlet.pause_writing()
    line.inlet.resume_writing()
    line.inlet.connection_lost(None)
    assert line.owner.heard == ["eof", "pause", "resume", "lost"]


async def test_an_inlet_stands_in_for_a_protocol_on_a_real_transport(made_of):
    line, loop = Line(made_of), asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
    transport.set_protocol(line.inlet)
    transport.abort()
    server.close()
    async with asyncio.timeout(5):
        while line.owner.heard != ["lost"]:
            await asyncio.sleep(0.01)
