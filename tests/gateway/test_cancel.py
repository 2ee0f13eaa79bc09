from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, answer_hello, chunk, framed, head


async def hang(request, writer):
    await request.gone.wait()


async def hang_after_first_chunk(request, writer):
    writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
    await writer.drain()
    await request.gone.wait()


async def hang_within_the_body(request, writer):
    writer.write(head(content_length=1000) + b'{"id":')
    await writer.drain()
    await request.gone.wait()


TURN = [{"role": "user", "content": "Hi"}]
BODIES = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": TURN, "max_tokens": 9},
    "/v1/responses": {"input": "Hi"},
}
CASES = [(path, stream) for path in BODIES for stream in (False, True)]
every_case = pytest.mark.parametrize(("path", "stream"), CASES)


async def ask(house, path: str, stream: bool) -> asyncio.StreamWriter:
    """Send a request and keep the connection; closing it is to leave."""
    _, writer = await asyncio.open_connection("127.0.0.1", house.port)
    send(writer, path, stream)
    return writer


def send(writer: asyncio.StreamWriter, path: str, stream: bool) -> None:
    body = {"model": MODEL} | BODIES[path] | ({"stream": True} if stream else {})
    content = json.dumps(body).encode()
    writer.write(
        b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(content))
    )
    writer.write(content)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def assert_freed(house, number: int = 1) -> None:
    """The node was told, nothing is held here, and the record says why."""
    await until(lambda: house.gateway.nodes.in_flight("n0") == 0)
    record = await house.record(number)
    assert (record.outcome, record.status) == ("cancelled", 499)
    house.node.answer = answer_hello
    assert (await house.chat()).status_code == 200


@every_case
async def test_client_leaving_in_prefill_frees_the_node(house, path, stream):
    house.node.answer = hang
    writer = await ask(house, path, stream)
    await until(lambda: house.node.requests)
    writer.transport.abort()
    async with asyncio.timeout(5):
        await house.node.requests[0].gone.wait()
    await assert_freed(house)


@every_case
async def test_client_leaving_in_decode_frees_the_node(house, path, stream):
    house.node.answer = hang_after_first_chunk if stream else hang_within_the_body
    writer = await ask(house, path, stream)
    await until(lambda: house.gateway.open_streams if stream else house.gateway.nodes.in_flight("n0"))
    await until(lambda: house.node.requests)
    writer.close()
    async with asyncio.timeout(5):
        await house.node.requests[0].gone.wait()
    await assert_freed(house)
    assert house.gateway.open_streams == 0


@every_case
async def test_client_leaving_while_it_waits_for_a_connection_frees_its_place(path, stream):
    async with make_house(max_connections_per_node=1) as house:
        house.node.answer = hang
        holder = await ask(house, "/v1/chat/completions", True)
        await until(lambda: house.node.requests)
        pool = house.gateway.nodes.node("n0").pool
        leaver = await ask(house, path, stream)
        await until(lambda: pool.waiting == 1)
        leaver.transport.abort()
        await house.record()
        assert pool.waiting == 0
        holder.transport.abort()
        await assert_freed(house, 2)
        assert len(house.node.requests) == 2  # the one that held, the one that checks


@pytest.mark.parametrize("stream", [False, True])
async def test_client_leaving_with_its_next_request_sent_already_frees_the_node(house, stream):
    house.node.answer = hang
    path = "/v1/chat/completions"
    writer = await ask(house, path, stream)
    await until(lambda: house.node.requests)
    for _ in range(3):
        send(writer, path, stream)
    await writer.drain()
    await asyncio.sleep(0.05)  # the requests behind are there, or the test says less than it could
    writer.transport.abort()
    async with asyncio.timeout(5):
        await house.node.requests[0].gone.wait()
    await assert_freed(house)


@every_case
async def test_client_leaving_while_its_model_loads_ends_the_wait(path, stream):
    async with make_house(loaded=False) as house:
        writer = await ask(house, path, stream)
        await until(lambda: house.control.operations)
        writer.transport.abort()
        assert (await house.record()).outcome == "cancelled"
        assert not house.gateway.loader.waiting
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
    assert {"configuration", "follow-n0"} <= names


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("answer", [hang, hang_within_the_body])
async def test_a_client_cut_off_by_a_stop_is_told_and_recorded_so(path, answer):
    async with httpx.AsyncClient(timeout=20) as client:
        async with make_house() as house:
            house.node.answer = answer
            url = f"http://127.0.0.1:{house.port}{path}"
            asking = asyncio.create_task(client.post(url, json={"model": MODEL} | BODIES[path]))
            await until(lambda: house.node.requests)
        response = await asking
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    [record] = house.records
    assert (record.status, record.outcome, record.error_code) == (503, "error", "gateway_stopping")


@every_case
async def test_the_record_of_a_client_that_left_shows_how_far_its_request_had_come(path, stream):
    async with make_house(loaded=False) as house:
        writer = await ask(house, path, stream)
        await until(lambda: house.control.operations)
        writer.transport.abort()
        record = await house.record()
        assert (record.cold, record.node, record.overhead_s) == (True, "", None)
        await house.node.set_model(MODEL)
        await house.until_routable()
        house.node.answer = hang
        writer = await ask(house, path, stream)
        await until(lambda: house.node.requests)
        writer.transport.abort()
        record = await house.record(2)
        assert (record.cold, record.node) == (False, "n0")
        assert record.overhead_s > 0
