"""Connections to a node: kept, replaced, bounded, and what a node that breaks the protocol comes to."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import make_house
from tests.stubs.fake_node import STREAM_HEAD, answer_hello, chunk, framed, sse


async def test_a_connection_is_kept_for_the_next_request(house):
    for stream in (False, True, False, True):
        assert (await house.chat(stream=stream)).status_code == 200
    assert len({request.connection for request in house.node.requests}) == 1


async def test_what_follows_an_answer_ends_the_connection_and_harms_nobody(house):
    async def answer(request, writer):
        await answer_hello(request, writer)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain")

    house.node.answer = answer
    for _ in range(3):
        response = await house.chat()
        assert response.status_code == 200
        assert "again" not in response.text
    assert len({request.connection for request in house.node.requests}) == 3


async def test_a_byte_that_comes_late_does_not_fail_the_next_request(house):
    async def answer(request, writer):
        if len({seen.connection for seen in house.node.requests}) == 1 and len(house.node.requests) > 1:
            writer.write(b"x")  # what the answer before had too much
        await answer_hello(request, writer)

    house.node.answer = answer
    for stream in (False, True):
        response = await house.chat(stream=stream)
        assert response.status_code == 200
    assert len({request.connection for request in house.node.requests}) == 2


async def test_more_requests_than_connections_wait_their_turn():
    async with make_house(max_connections_per_node=2) as house:
        answers = await asyncio.gather(*(house.chat() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert house.node.accepted <= 2 + 1 + 1  # and one for events; one may be replaced


async def test_a_wait_for_a_connection_has_an_end():
    async def hang(request, writer):
        await request.gone.wait()

    async with make_house(max_connections_per_node=1, connection_wait_s=0.1) as house:
        house.node.answer = hang
        first = asyncio.create_task(house.chat())
        async with asyncio.timeout(10):
            while not house.node.requests:
                await asyncio.sleep(0.01)
        response = await house.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "node_busy")
        assert int(response.headers["retry-after"]) > 0
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_the_gateways_own_work_is_told(house):
    response = await house.chat()
    assert 0 < int(response.headers["x-cortex-overhead-us"]) < 1_000_000
    assert response.headers["x-cortex-retries"] == "0"


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("pause_s", [0.0, 0.02], ids=["together", "apart"])
async def test_framing_out_of_the_ordinary_is_read_all_the_same(house, pause_s, more):
    """Sizes with an extension or zeros in front, capital digits, a trailer: a complete parser reads on."""
    events = chunk({"content": "Hello"}), chunk({}, "stop"), sse(b"[DONE]")
    pieces = [
        STREAM_HEAD.removesuffix(b"\r\n") + more + b"\r\n",
        framed(events[0]),
        b"000%X;name=value\r\n%b\r\n" % (len(events[1]), events[1]),
        framed(events[2]),
        b"0\r\nx-trailer: 1\r\n\r\n",
    ]

    async def answer(request, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    house.node.answer = answer
    for _ in range(2):
        response = await house.chat(stream=True, stream_options={"include_usage": True})
        assert response.content == b"".join(events)
    assert len({request.connection for request in house.node.requests}) == (2 if more else 1)
