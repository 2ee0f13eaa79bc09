"""What one request taught of a node spares the next one."""

from __future__ import annotations

import asyncio

from fleet.breaker import FAILURES
from fleet.snapshot import NodeConfig
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import answer_hello, refuse


async def cut(request, writer):
    writer.transport.abort()


async def test_a_broken_node_is_left_alone_and_shown_then_probed():
    async with make_house(nodes=2) as house:
        first = house.nodes[0]
        first.answer = cut
        await house.burden_all_but(first)
        for _ in range(FAILURES + 3):
            assert (await house.chat()).status_code == 200
        assert len(first.requests) == FAILURES
        health = (await house.client.get("/health")).json()
        assert health["breakers"] == {"n0": "open"}
        first.answer = answer_hello
        async with asyncio.timeout(10):
            while (await house.chat()).headers["x-cortex-node"] != "n0":
                await asyncio.sleep(0.05)
        assert (await house.client.get("/health")).json()["breakers"] == {}


async def test_all_replicas_broken_is_said_at_once_with_a_time_to_retry(house):
    house.node.answer = cut
    for _ in range(FAILURES):
        await house.chat()
    response = await house.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "node_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert len(house.node.requests) == FAILURES


async def test_a_busy_node_is_spared_but_not_broken():
    async with make_house(nodes=2) as house:
        first = house.nodes[0]
        first.answer = refuse(429, "queue_full", retry_after=30)
        await house.burden_all_but(first)
        for _ in range(4):
            assert (await house.chat()).headers["x-cortex-node"] == "n1"
        assert len(first.requests) == 1
        assert (await house.client.get("/health")).json()["breakers"] == {}


async def test_a_wrong_token_is_not_tried_again_until_it_is_configured_anew(house):
    house.node.answer = refuse(401, "invalid_api_key")
    for _ in range(3):
        assert (await house.chat()).status_code == 502
    assert len(house.node.requests) == 1
    house.node.answer = answer_hello
    house.control.change(nodes={"n0": NodeConfig("n0", house.node.url, token="right")})
    async with asyncio.timeout(10):
        while (await house.chat()).status_code != 200:
            await asyncio.sleep(0.05)


async def test_a_conversation_stays_on_its_node():
    async with make_house(nodes=3) as house:
        messages = [{"role": "user", "content": "x" * 40_000}]
        body = {"model": MODEL, "messages": messages}
        nodes = set()
        for _ in range(8):
            response = await house.client.post("/v1/chat/completions", json=body)
            nodes.add(response.headers["x-cortex-node"])
            messages += [{"role": "assistant", "content": "y" * 3000}]
        assert len(nodes) == 1
