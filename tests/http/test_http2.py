"""HTTP/2: streams are answered side by side, within bounds, and whatever a client does."""

from __future__ import annotations

import asyncio
import struct

import pytest
from django.http import HttpResponse
from h2 import events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from ninja import NinjaAPI

from cortex_site.http import http2_connection
from cortex_site.http.application import Application
from cortex_site.http.bounds import Http2Bounds, RequestBounds
from cortex_site.http.parsed_request import BadRequestError
from cortex_site.http.request import Request
from cortex_site.http.response import StreamResponse
from tests.http.http2_client import Http2Client
from tests.http.server import BODY_LIMIT, make_app

ROOMY = RequestBounds(1 << 22)
PIECE = b"x" * 1000
GOAWAY = 7  # the type of its frame


class Endless:
    """An application with an endpoint whose stream has no end, and what became of it."""

    def __init__(self, bounds: RequestBounds = ROOMY) -> None:
        self.num_pieces, self.ended = 0, asyncio.Event()
        api = NinjaAPI(urls_namespace="endless", openapi_url=None)

        @api.post("/endless")
        async def endless(request: Request) -> StreamResponse:
            return StreamResponse(self._produce, headers={}, on_close=self.ended.set)

        self.app = Application(api, bounds=bounds)

    async def _produce(self, sink) -> None:
        while True:
            self.num_pieces += 1
            await sink(PIECE)
            await asyncio.sleep(0)


async def test_streams_are_answered_side_by_side():
    client = await Http2Client(make_app(ROOMY), reads=True).begin()
    bodies = [b"y" * size for size in (1, 30_000, 200_000)]
    streams = [client.ask("/echo", body) for body in bodies]
    other = client.ask("/stream")
    await client.settle(200)
    assert [client.body(stream) for stream in streams] == bodies
    assert client.body(other) == b"data: x\n\n" * 3
    assert {client.status(stream) for stream in (*streams, other)} == {200}
    assert all(map(client.is_whole, (*streams, other)))
    await client.end()


async def test_a_head_is_read_as_in_http_1():
    seen, api = [], NinjaAPI(urls_namespace="head", openapi_url=None)

    @api.get("/a b")
    async def look(request: Request) -> HttpResponse:
        named = [request.header(name) for name in (b"host", b"x-a")]
        seen.append((request.path, request.GET.dict(), *named, request.peer))
        return HttpResponse("body")

    client = await Http2Client(Application(api, bounds=ROOMY)).begin()
    stream = client.ask("/a%20b?c=d", method="GET", extra=[("x-a", "1"), ("x-a", "2")])
    head = client.ask("/a%20b?c=d", method="HEAD")
    missing, wrong = client.ask("/none", method="GET"), client.ask("/a%20b", method="PUT")
    await client.settle()
    assert seen[0] == ("/a b", {"c": "d"}, "x", "1", "127.0.0.1")
    assert [client.status(ident) for ident in (stream, head, missing, wrong)] == [200, 200, 404, 405]
    assert (client.body(stream), client.body(head)) == (b"body", b"")
    await client.end()


async def test_trailers_are_no_part_of_the_head():
    seen, api = [], NinjaAPI(urls_namespace="trailers", openapi_url=None)

    @api.post("/look")
    async def look(request: Request) -> HttpResponse:
        seen.append((request.header(b"authorization"), request.body))
        return HttpResponse("")

    client = await Http2Client(Application(api, bounds=ROOMY)).begin()
    stream = client.ask("/look", b"body", ends=False)
    client.h2.send_headers(stream, [("authorization", "Bearer of-a-trailer")], end_stream=True)
    client.send()
    await client.settle()
    assert seen == [(None, b"body")]
    assert client.is_whole(stream)
    await client.end()


# --- flow control ---


async def test_an_answer_waits_for_the_client_s_room():
    client = await Http2Client(make_app(ROOMY), initial_window_size=5).begin()
    stream = client.ask("/echo", b"0123456789abcdef")
    await client.settle()
    assert client.body(stream) == b"01234"
    client.h2.increment_flow_control_window(4, stream)
    client.send()
    await client.settle()
    assert client.body(stream) == b"012345678"
    client.h2.increment_flow_control_window(100, stream)
    client.send()
    await client.settle()
    assert (client.body(stream), client.is_whole(stream)) == (b"0123456789abcdef", True)
    await client.end()


async def test_a_client_that_reads_nothing_holds_one_piece_of_a_stream():
    endless = Endless()
    client = await Http2Client(endless.app, initial_window_size=2500).begin()
    stream = client.ask("/endless")
    await client.settle(100)
    assert (len(client.body(stream)), endless.num_pieces) == (2500, 3)
    client.h2.reset_stream(stream)
    client.send()
    await asyncio.wait_for(endless.ended.wait(), 10)
    await client.end()


async def test_nobody_takes_all_of_the_connection_s_room():
    client = await Http2Client(make_app(ROOMY), initial_window_size=1 << 20).begin()
    size = 60_000
    streams = [client.ask("/echo", b"z" * size) for _ in range(3)]  # the connection has room for one of them
    await client.settle(100)
    client.h2.increment_flow_control_window(size)
    client.send()
    await client.settle(100)
    assert all(len(client.body(stream)) > size // 4 for stream in streams)
    await client.end()


async def test_room_for_bodies_is_given_back():
    client = await Http2Client(make_app(RequestBounds(1 << 23))).begin()
    await client.settle()
    stream, num_sent = client.ask("/echo", ends=False), 0
    while num_sent < 3 * http2_connection.WINDOW:
        size = min(client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
        client.h2.send_data(stream, bytes(size))
        num_sent += size
        client.send()
        await client.settle(1)
    await client.settle(200)
    assert client.app.held.total == num_sent
    await client.end()


async def test_a_client_that_reads_none_of_its_answer_is_given_up():
    client = await Http2Client(make_app(ROOMY), patience_s=0.05, initial_window_size=5).begin()
    stream = client.ask("/echo", b"0123456789")
    async with asyncio.timeout(10):
        while not client.of(events.StreamReset, stream):
            await asyncio.sleep(0.01)
            client.look()
    assert client.of(events.StreamReset, stream)[0].error_code == ErrorCodes.CANCEL
    await client.end()


# --- what is refused ---


async def test_a_stream_too_many_is_refused_and_the_others_go_on():
    endless = Endless(RequestBounds(BODY_LIMIT, http2=Http2Bounds(max_streams=2)))
    client = Http2Client(endless.app, initial_window_size=0)
    client.h2.initiate_connection()  # its settings allow any number until the server's have come
    streams = [client.ask("/endless") for _ in range(4)]
    await client.settle()
    refused = [event.error_code for stream in streams for event in client.of(events.StreamReset, stream)]
    assert refused == [ErrorCodes.REFUSED_STREAM] * 2
    assert client.h2.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] == 2
    client.h2.reset_stream(streams[0])
    again = client.ask("/none")
    await client.settle()
    assert client.status(again) == 404
    await client.end()


@pytest.mark.parametrize("kind", ["judged", "large", "announced", "held", "host"])
async def test_what_may_not_be_sent_is_answered_before_its_end(kind):
    bounds = RequestBounds(BODY_LIMIT, max_held_bytes=100 if kind == "held" else 1 << 20)
    refusal = BadRequestError(401, "no") if kind == "judged" else None
    client = await Http2Client(make_app(bounds, judge=lambda _: refusal)).begin()
    extra = {"announced": [("content-length", "2000")], "host": [(":authority", "x y")]}.get(kind, [])
    size = {"large": 1001, "held": 101}.get(kind, 1)
    stream = client.ask("/echo", b"x" * size, ends=False, extra=extra)
    await client.settle()
    statuses = {"host": 400, "judged": 401, "large": 413, "announced": 413, "held": 429}
    assert client.status(stream) == statuses[kind]
    assert [event.error_code for event in client.of(events.StreamReset, stream)] == [ErrorCodes.NO_ERROR]
    other = client.ask("/stream")
    await client.settle()
    assert client.is_whole(other)
    await client.end()


async def test_a_body_that_drips_ends_with_its_deadline():
    client = await Http2Client(make_app(RequestBounds(BODY_LIMIT, body_s=0.05))).begin()
    stream = client.ask("/echo", b"x", ends=False)
    async with asyncio.timeout(10):
        while client.status(stream) is None:
            await asyncio.sleep(0.01)
            client.look()
    assert client.status(stream) == 408
    await client.end()


# --- clients that cost much ---


async def test_a_client_that_takes_back_what_it_asks_is_sent_away():
    endless = Endless(RequestBounds(BODY_LIMIT, http2=Http2Bounds(max_resets=5)))
    client = await Http2Client(endless.app).begin()
    for _ in range(6):
        assert not client.transport.is_closing()
        client.h2.reset_stream(client.ask("/endless"))
        client.send()
        await client.settle(3)
    assert client.of(events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert client.transport.is_closing()
    await client.end()


async def test_a_head_is_bounded_as_it_is_decompressed():
    bounds = RequestBounds(BODY_LIMIT, http2=Http2Bounds(max_head_bytes=2000))
    client = await Http2Client(make_app(bounds)).begin()
    client.ask("/echo", extra=[("x-long", "y" * 200)] * 20)
    await client.settle()
    assert client.of(events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    assert client.transport.is_closing()
    await client.end()


@pytest.mark.parametrize("kind", ["ping", "settings", "window", "empty"])
async def test_frames_that_carry_nothing_are_counted(kind, monkeypatch):
    monkeypatch.setattr(http2_connection, "MAX_EMPTY_FRAMES", 50)
    client = await Http2Client(make_app(), initial_window_size=0).begin()
    stream = client.ask("/echo", b"x", ends=False)
    for _ in range(60):
        match kind:
            case "ping":
                client.h2.ping(b"12345678")
            case "settings":
                client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 4096})
            case "window":
                client.h2.increment_flow_control_window(1)
            case "empty":
                client.h2.send_data(stream, b"")
        client.send()
        await asyncio.sleep(0)
    client.look()
    assert client.of(events.ConnectionTerminated)[0].error_code == ErrorCodes.ENHANCE_YOUR_CALM
    await client.end()


async def test_a_client_that_reads_no_answers_to_its_pings_is_cut_off(monkeypatch):
    monkeypatch.setattr(http2_connection, "MAX_UNREAD_BYTES", 1000)
    client = await Http2Client(make_app()).begin()
    for _ in range(80):
        client.h2.ping(b"12345678")
        client.send()
    assert client.transport.is_closing()
    await client.end()


# --- ends ---


async def test_a_request_that_is_taken_back_is_cancelled():
    endless = Endless()
    client = await Http2Client(endless.app).begin()
    stream = client.ask("/endless")
    await client.settle()
    client.h2.reset_stream(stream)
    client.send()
    await asyncio.wait_for(endless.ended.wait(), 10)
    assert not client.transport.is_closing()
    await client.end()


async def test_a_client_that_leaves_cancels_its_requests():
    endless = Endless()
    client = await Http2Client(endless.app).begin()
    client.ask("/endless")
    await client.settle()
    await client.end()
    assert endless.ended.is_set()


async def test_a_stop_answers_what_has_begun_and_no_more(monkeypatch):
    monkeypatch.setattr(http2_connection, "LAST_CALL_S", 0.0)
    client = await Http2Client(make_app(ROOMY)).begin()
    begun = client.ask("/echo", b"half", ends=False)
    await client.settle()
    client.transport.get_protocol().shutdown()
    on_its_way = client.ask("/none")
    await asyncio.sleep(0.01)
    await client.settle()
    assert client.status(on_its_way) == 404
    late = client.ask("/none")
    goodbye = bytes(client.transport.written[:17])
    assert goodbye[3] == GOAWAY
    assert struct.unpack(">II", goodbye[9:]) == (on_its_way, ErrorCodes.NO_ERROR)
    del client.transport.written[:17]  # h2's own client would hear nothing more
    await client.settle()
    assert client.of(events.StreamReset, late)[0].error_code == ErrorCodes.REFUSED_STREAM
    client.h2.send_data(begun, b"-", end_stream=True)
    client.send()
    await client.settle()
    assert (client.body(begun), client.is_whole(begun)) == (b"half-", True)
    assert client.of(events.ConnectionTerminated)[0].last_stream_id == on_its_way
    assert client.transport.is_closing()
    await client.end()


async def test_an_idle_connection_is_closed():
    client = await Http2Client(make_app(), patience_s=0.05).begin()
    stream = client.ask("/stream")
    async with asyncio.timeout(10):
        while not client.transport.is_closing():
            client.h2.ping(b"12345678")  # which keeps nothing open
            client.send()
            await asyncio.sleep(0.01)
            client.look()
    assert client.is_whole(stream)
    assert client.of(events.ConnectionTerminated)[0].error_code == ErrorCodes.NO_ERROR
    await client.end()


async def test_a_failure_within_an_answer_is_no_clean_end(caplog):
    api = NinjaAPI(urls_namespace="failing", openapi_url=None)

    @api.post("/fail")
    async def fail(request: Request) -> StreamResponse:
        async def produce(sink) -> None:
            await sink(b"half")
            raise ValueError("a bug")

        return StreamResponse(produce, headers={})

    client = await Http2Client(Application(api, bounds=ROOMY)).begin()
    stream = client.ask("/fail")
    await client.settle()
    assert (client.body(stream), client.is_whole(stream)) == (b"half", False)
    assert client.of(events.StreamReset, stream)[0].error_code == ErrorCodes.INTERNAL_ERROR
    await client.end()
