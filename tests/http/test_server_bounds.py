"""Clients that send too slowly, too much, nothing at all, or what nobody asked for."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from django.http import HttpResponse
from ninja import NinjaAPI

from cortex_site.http.application import Application
from cortex_site.http.bounds import RequestBounds
from cortex_site.http.parsed_request import BadRequestError
from cortex_site.http.request import Request
from tests.http.server import BODY_LIMIT, PATIENCE_S, Answers, listening, make_app, request


async def test_a_body_that_drips_ends_with_its_deadline():
    bounds = RequestBounds(BODY_LIMIT, body_s=3 * PATIENCE_S)
    async with listening(make_app(bounds)) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"POST", b"/echo", [b"content-length: 1000"], b""))
        answering = asyncio.create_task(reader.read())
        async with asyncio.timeout(30):
            while not answering.done():
                with suppress(ConnectionError):
                    writer.write(b"x")
                await asyncio.sleep(PATIENCE_S / 4)
        assert Answers(answering.result(), ended=True).statuses == [408]
        writer.close()


async def test_the_bodies_of_a_worker_together_are_bounded():
    app = make_app(RequestBounds(BODY_LIMIT, max_held_bytes=BODY_LIMIT))
    async with listening(app) as (port, _):
        half = request(b"POST", b"/echo", [b"content-length: 900"], b"x" * 600)
        (first_answer, first), (second_answer, second) = [
            await asyncio.open_connection("127.0.0.1", port) for _ in range(2)
        ]
        async with asyncio.timeout(30):
            first.write(half)
            while app.held.total < 600:
                await asyncio.sleep(0)
            second.write(half)
            refused = await second_answer.read()
            assert Answers(refused, ended=True).statuses == [429]
            first.write(b"x" * 300)
            assert (await first_answer.readuntil(b"x" * 900)).startswith(b"HTTP/1.1 200")
            first.close()
            while app.held.total:
                await asyncio.sleep(0)
        second.close()


async def test_a_client_that_ends_its_sending_gets_all_its_answers():
    go_on, api = asyncio.Event(), NinjaAPI()

    @api.get("/slow")
    async def slow(request: Request):
        await go_on.wait()
        return HttpResponse("done")

    async with listening(Application(api, bounds=RequestBounds(BODY_LIMIT))) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(30):
            writer.write(2 * request(b"GET", b"/slow", [], b""))
            writer.write_eof()
            interim = await reader.readuntil(b"\r\n\r\n")
            assert interim.startswith(b"HTTP/1.1 102 ")
            go_on.set()
            answers = (await reader.read()).replace(interim, b"")
        assert Answers(answers, ended=True).statuses == [200, 200]
        writer.close()


async def test_a_client_that_has_left_is_told_from_one_that_ended_its_sending():
    cancelled, begun, api = asyncio.Event(), asyncio.Event(), NinjaAPI()

    @api.get("/slow")
    async def slow(request: Request):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with listening(Application(api, bounds=RequestBounds(BODY_LIMIT))) as (port, _):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(b"GET", b"/slow", [], b""))
        async with asyncio.timeout(30):
            await begun.wait()
            writer.close()
            await cancelled.wait()


async def test_what_the_head_forbids_is_not_read():
    app = make_app(judge=lambda request: BadRequestError(401, "no") if request.path == "/echo" else None)
    async with listening(app) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(30):
            for _ in range(2):
                writer.write(request(b"POST", b"/stream", [b"content-length: 5"], b""))
                writer.write(b"hello")
                await reader.readuntil(b"0\r\n\r\n")
            writer.write(request(b"POST", b"/echo", [b"content-length: 900"], b""))
            assert Answers(await reader.read(), ended=True).statuses == [401]
        writer.close()


async def test_a_client_that_does_not_read_gets_no_more_answers():
    served = 0
    api = NinjaAPI(urls_namespace="unread", openapi_url=None)

    @api.get("/large")
    async def large(request: Request) -> HttpResponse:
        nonlocal served
        served += 1
        return HttpResponse(b"x" * (1 << 22))

    async with listening(Application(api, bounds=RequestBounds(BODY_LIMIT), compress_from_bytes=0)) as (
        port,
        server,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
        writer.write(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n" * 12)
        async with asyncio.timeout(30):
            while not server.server_state.connections:
                await asyncio.sleep(0)
            while server.server_state.connections:  # it is let go in the end
                await asyncio.sleep(PATIENCE_S / 4)
        assert 1 <= served < 12
        writer.transport.abort()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /ec",
        b"POST /echo HTTP/1.1\r\nhost: x\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nha",
        request(b"POST", b"/echo", [b"content-length: 1"], b"x") + b"POST /ec",
    ],
    ids=["nothing", "half-line", "half-head", "half-body", "half-chunk", "half-of-the-next"],
)
async def test_who_stops_sending_within_a_request_is_let_go(sent):
    async with listening(make_app()) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(10):
            answer = await reader.read()
        whole = sent.count(b"\r\n\r\nx")
        statuses = [200] * whole + [408] * (len(sent) > 0)
        assert Answers(answer, ended=True).statuses == statuses
        writer.close()
        assert not server.server_state.tasks


async def test_neither_a_slow_sender_nor_a_slow_answer_is_let_go():
    api = NinjaAPI(urls_namespace="slow", openapi_url=None)

    @api.post("/slow")
    async def slow(request: Request) -> HttpResponse:
        await asyncio.sleep(2 * PATIENCE_S)
        return HttpResponse(request.body)

    async with listening(Application(api, bounds=RequestBounds(BODY_LIMIT))) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            head = request(b"POST", b"/slow", [b"content-length: 6"], b"")
            for piece in (head[:9], head[9:], *(bytes([byte]) for byte in b"slowly")):
                writer.write(piece)
                await asyncio.sleep(PATIENCE_S / 4)
            async with asyncio.timeout(10):
                assert (await reader.readuntil(b"slowly")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_request_that_was_on_its_way_when_the_server_stopped_is_answered():
    async with listening(make_app()) as (port, server):
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        async with asyncio.timeout(10):
            while len(server.server_state.connections) < 2:
                await asyncio.sleep(0)
            server.should_exit = True
            for connection in list(server.server_state.connections):
                connection.shutdown()
            (reader, writer), (idle, unused) = connections
            writer.write(request(b"POST", b"/echo", [b"content-length: 1"], b"x"))
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"x")
            assert b"connection: close" in answer.lower()
            assert await idle.read() == b""
        writer.close()
        unused.close()
