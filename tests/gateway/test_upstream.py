"""Connections to a node: kept, replaced, bounded, and what a node that breaks the protocol comes to."""

from __future__ import annotations

from tests.stubs.fake_node import answer_hello


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
