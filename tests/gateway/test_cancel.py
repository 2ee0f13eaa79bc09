from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed


async def hang(request, writer):
    await request.gone.wait()


async def hang_after_first_chunk(request, writer):
    writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
    await writer.drain()
    await request.gone.wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_client_leaving_before_the_answer_frees_the_node(house, stream):
    house.node.answer = hang
    body = {"model": MODEL, "messages": [], "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        await house.client.post("/v1/chat/completions", json=body, timeout=0.2)
    async with asyncio.timeout(5):
        await house.node.requests[0].gone.wait()
    record = await house.record()
    assert (record.outcome, record.status) == ("cancelled", 499)


async def test_client_leaving_within_a_stream_frees_the_node(house):
    house.node.answer = hang_after_first_chunk
    body = {"model": MODEL, "messages": [], "stream": True}
    async with house.client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_bytes():
            break
    async with asyncio.timeout(5):
        await house.node.requests[0].gone.wait()
    assert (await house.record()).outcome == "cancelled"
    assert house.gateway.nodes.in_flight("n0") == 0


async def test_client_leaving_while_its_model_loads():
    async with make_house(loaded=False) as house:
        body = {"model": MODEL, "messages": [], "stream": True}
        with pytest.raises(httpx.ReadTimeout):
            await house.client.post("/v1/chat/completions", json=body, timeout=0.2)
        assert (await house.record()).outcome == "cancelled"
        await house.node.set_model(MODEL)
        await house.until_routable()
        assert (await house.chat()).status_code == 200
        assert len(house.node.requests) == 1


async def test_stopping_the_gateway_leaves_no_task(house):
    house.node.answer = hang
    task = asyncio.create_task(house.chat())
    async with asyncio.timeout(5):
        while not house.node.requests:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await house.record()
    names = {item.get_name() for item in asyncio.all_tasks()}
    assert {"configuration", "events-n0"} <= names
