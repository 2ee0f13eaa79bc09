"""Streams, whichever way they come to run: all are passed on alike, and none of them in a task."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from fleet.gateway import detour
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed, sse

PATH = "/v1/chat/completions"
BODY = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
END = framed(chunk({}, "stop")) + framed(sse(b"[DONE]")) + b"0\r\n\r\n"
PIECE, MOST_PIECES = b"x" * 65_536, 1_000
TASKS = {"ServerProtocol._serve", "Http2Connection._serve", "detour", "exchange"}

WAYS = {
    "http/1.1": {},
    "http/1.0": {},
    "http/2": {},
    "of another origin": {"origin": "https://page.example"},
    "compressed": {"content-encoding": "gzip"},
    "cold": {},
    "cold, http/2": {},
}
every_way = pytest.mark.parametrize("way", WAYS)
without_task = pytest.mark.parametrize("way", [way for way in WAYS if way != "compressed"])


@pytest.fixture
async def house(way, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.01)
    async with make_house(loaded="cold" not in way, allowed_origins=["https://page.example"]) as built:
        yield built


@asynccontextmanager
async def asking(house, way):
    """The answer to a streamed chat as it comes; leaving is to hang up."""
    opened = _asking_in_http_1_0(house.port) if way == "http/1.0" else _asking(house.port, way)
    async with opened as pieces:
        if "cold" in way:
            assert (await anext(pieces)).startswith(b": ")  # the stream has begun, and waits
            await house.node.set_model(MODEL)
        yield pieces


@asynccontextmanager
async def _asking(port, way):
    is_http2 = "http/2" in way
    content = gzip.compress(BODY) if way == "compressed" else BODY
    async with (
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", http1=not is_http2, http2=is_http2, timeout=30
        ) as client,
        client.stream("POST", PATH, content=content, headers=WAYS[way]) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response.aiter_raw()


@asynccontextmanager
async def _asking_in_http_1_0(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST %s HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % (PATH.encode(), len(BODY)) + BODY)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    assert b"transfer-encoding" not in head
    try:
        yield _pieces(reader)
    finally:
        writer.transport.abort()


async def _pieces(reader):
    while piece := await reader.read(1 << 16):
        yield piece


async def _until(pieces, text: bytes) -> None:
    """Read until this has come, cut by nobody."""
    seen = b""
    while text not in seen:
        seen += await anext(pieces)


async def _rest(pieces) -> bytes:
    return b"".join([piece async for piece in pieces])


async def say_hello_and_wait(request, writer):
    writer.write(STREAM_HEAD + framed(chunk({"content": "Hello"})))
    await request.gone.wait()


@without_task
async def test_no_task_runs_for_a_stream(house, way):
    house.node.answer = say_hello_and_wait
    async with asking(house, way) as pieces:
        await _until(pieces, b"Hello")
        running = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
        assert not running & TASKS
        assert house.gateway.open_streams == 1


@every_way
async def test_a_stream_comes_whole_and_is_recorded(house, way):
    async with asking(house, way) as pieces:
        got = await _rest(pieces)
    assert got.endswith(b"data: [DONE]\n\n")
    assert [text in got for text in (b"Hello", b" there", b'"stop"')] == [True] * 3
    record = await house.record()
    assert (record.outcome, record.status, record.stream) == ("ok", 200, True)
    assert (house.gateway.open_streams, house.gateway.nodes.in_flight("n0")) == (0, 0)


@every_way
async def test_a_client_that_leaves_ends_its_stream_at_the_node(house, way):
    house.node.answer = say_hello_and_wait
    async with asking(house, way) as pieces:
        await _until(pieces, b"Hello")
    record = await house.record()
    assert (record.outcome, record.status) == ("cancelled", 499)
    async with asyncio.timeout(10):
        await house.node.requests[0].gone.wait()
    assert (house.gateway.open_streams, house.gateway.nodes.in_flight("n0")) == (0, 0)


@every_way
async def test_a_client_hears_of_a_node_that_is_lost_within_the_stream(house, way):
    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hello"})))
        await writer.drain()
        writer.close()

    house.node.answer = answer
    async with asking(house, way) as pieces:
        got = await _rest(pieces)
    assert b"Hello" in got
    assert json.loads(got.rpartition(b"data: ")[2])["error"]["code"] == "node_lost"
    record = await house.record()
    assert (record.outcome, record.status, record.error_code) == ("error", 200, "node_lost")


@every_way
async def test_a_slow_client_stops_its_node_and_loses_nothing(house, way):
    stopped, written = asyncio.Event(), 0

    async def answer(request, writer):
        nonlocal written
        writer.write(STREAM_HEAD)
        while writer.transport.get_write_buffer_size() < 1 << 20 and written < MOST_PIECES:
            writer.write(framed(chunk({"content": PIECE.decode()})))
            written += 1
            await asyncio.sleep(0)
        stopped.set()
        await writer.drain()
        writer.write(END)

    house.node.answer = answer
    async with asking(house, way) as pieces:
        async with asyncio.timeout(30):
            await stopped.wait()
        assert written < MOST_PIECES
        got = await _rest(pieces)
    assert got.count(PIECE) == written
    assert got.endswith(b"data: [DONE]\n\n")
    assert (await house.record()).outcome == "ok"


@every_way
async def test_a_worker_that_stops_says_so_within_the_stream(way, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.01)
    async with make_house(loaded="cold" not in way, allowed_origins=["https://page.example"]) as house:
        house.node.answer = say_hello_and_wait
        opened = asking(house, way)
        pieces = await opened.__aenter__()
        await _until(pieces, b"Hello")
    got = await _rest(pieces)
    await opened.__aexit__(None, None, None)
    assert json.loads(got.rpartition(b"data: ")[2])["error"]["code"] == "gateway_stopping"
    [record] = house.records
    assert (record.outcome, record.error_code) == ("error", "gateway_stopping")


@pytest.mark.parametrize("way", ["cold", "cold, http/2"])
async def test_a_client_that_leaves_while_it_is_told_to_wait_ends_the_wait(house, way):
    async with _asking(house.port, way) as pieces:
        assert (await anext(pieces)).startswith(b": ")
    assert (await house.record()).outcome == "cancelled"
    assert house.gateway.open_streams == 0
    assert not house.gateway.loader.waiting
    await house.node.set_model(MODEL)
    await house.until_routable()
    assert (await house.chat()).status_code == 200
    assert len(house.node.requests) == 1
