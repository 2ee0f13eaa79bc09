"""A way to a node that breaks at any byte, stalls, trickles or never connects: one end for one client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from fleet.snapshot import NodeConfig
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed
from tests.stubs.faulty_proxy import FaultyProxy, cut, none, stall, trickle

BODY = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
PATHS = {"/v1/chat/completions": "data: [DONE]", "/v1/messages": "event: message_stop"}
EVERY = 31  # bytes between two cuts; prime, so that they fall on every place within an event


@asynccontextmanager
async def proxied(**limits):
    """A house whose node is behind a proxy."""
    async with make_house(**limits) as house:
        proxy = FaultyProxy(house.node.port)
        await proxy.start()
        house.control.change(nodes={"n0": NodeConfig("n0", proxy.url)})
        await house.until(lambda snapshot: snapshot.configuration.nodes["n0"].base == proxy.url)
        await house.until_routable()
        try:
            yield house, proxy
        finally:
            await proxy.stop()


async def answer_bytes(house, proxy, path: str, stream: bool) -> int:
    """How long the node's whole answer is on the wire."""
    passed = 0

    async def count(link) -> None:
        nonlocal passed
        while data := await link.answer():
            passed += len(data)
            link.writer.write(data)

    proxy.fault = count
    assert (await house.client.post(path, json=BODY | {"stream": stream})).status_code == 200
    house.gateway.nodes.node("n0").pool.pop_idle().abort()  # each fault gets a connection of its own
    return passed


def is_whole(response: httpx.Response, path: str, stream: bool) -> bool:
    """Answered to the end; else it must have failed in exactly one place."""
    if not stream:
        assert response.status_code in {200, 503}
        assert (response.status_code == 503) == ("error" in response.json())
        return response.status_code == 200
    if response.status_code != 200:
        assert response.json()["error"]["message"]
        return False
    failed, ended = response.text.count('"error":{'), response.text.count(PATHS[path])
    assert failed + ended == 1, response.text
    return bool(ended)


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_cut_at_any_byte_is_whole_or_failed_and_harms_no_other(path, stream, reset):
    release = asyncio.Event()

    async def hold(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
        await release.wait()
        writer.write(framed(chunk({}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with proxied(repeat_unanswered=False) as (house, proxy):
        normal, house.node.answer = house.node.answer, hold
        bystander = asyncio.create_task(
            house.client.post("/v1/chat/completions", json=BODY | {"stream": True})
        )
        async with asyncio.timeout(10):
            while not house.gateway.open_streams:
                await asyncio.sleep(0.005)
        house.node.answer = normal
        size = await answer_bytes(house, proxy, path, stream)
        for after in [*range(0, size, EVERY), size - 1]:
            proxy.fault = cut(after, reset=reset)
            response = await house.client.post(path, json=BODY | {"stream": stream})
            whole = is_whole(response, path, stream)
            assert not whole or stream, after  # a stream is whole with its [DONE], whatever follows
            house.gateway.nodes.breaker("n0").succeeded()  # what it learns of the node is not the point
        proxy.fault = none
        assert is_whole(await house.client.post(path, json=BODY | {"stream": stream}), path, stream)
        release.set()
        assert (await bystander).text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 20])
async def test_a_node_that_accepts_and_never_answers_is_given_up_and_let_go(stream, after):
    async with proxied(first_byte_timeout_s=0.2) as (house, proxy):
        proxy.fault = stall(after)
        response = await house.client.post("/v1/chat/completions", json=BODY | {"stream": stream})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "node_unavailable")
        await until(lambda: not proxy.links)
        proxy.fault = none
        assert (await house.chat()).status_code == 200


async def test_a_large_body_to_a_node_that_reads_nothing_is_given_up():
    async def never(link) -> None:
        link.reader._transport.pause_reading()
        await asyncio.Event().wait()

    async with proxied(first_byte_timeout_s=0.3) as (house, proxy):
        proxy.fault = never
        body = BODY | {"messages": [{"role": "user", "content": "x" * (16 << 20)}]}
        response = await house.client.post("/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "node_unavailable")
        assert house.gateway.nodes.in_flight("n0") == 0


async def test_a_connection_that_does_not_come_about_is_given_up_in_its_own_time():
    async with proxied(connect_timeout_s=0.2) as (house, proxy):
        await proxy.swallow_connections()
        async with asyncio.timeout(5):  # not the minutes that the first byte has
            response = await house.chat()
        assert response.status_code == 503
        assert "no connection within 0.2 s" in response.json()["error"]["message"]


async def test_an_answer_in_single_bytes_is_the_same_answer():
    async with proxied() as (house, proxy):
        whole = [await house.chat(stream=stream) for stream in (False, True)]
        house.gateway.nodes.node("n0").pool.pop_idle().abort()
        proxy.fault = trickle(1, 0)
        slow = [await house.chat(stream=stream) for stream in (False, True)]
        assert [answer.text for answer in slow] == [answer.text for answer in whole]


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_that_ends_without_a_word_after_an_answer_costs_nobody_anything(stream):
    async with proxied() as (house, proxy):
        size = await answer_bytes(house, proxy, "/v1/chat/completions", stream)
        proxy.fault = cut(size)
        for _ in range(20):
            response = await house.client.post("/v1/chat/completions", json=BODY | {"stream": stream})
            assert is_whole(response, "/v1/chat/completions", stream)
        assert (await house.client.get("/health")).json()["breakers"] == {}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_connection_that_ends_with_the_next_request_on_it_is_replaced_unseen(stream):
    async with proxied() as (house, proxy):
        size = await answer_bytes(house, proxy, "/v1/chat/completions", stream)

        async def once(link) -> None:
            """The first answer, then a hang-up as the next request comes."""
            left = size
            while left:
                data = await link.answer(left)
                link.writer.write(data)
                left -= len(data)
            await link.answer()

        proxy.fault = once
        for _ in range(5):
            response = await house.client.post("/v1/chat/completions", json=BODY | {"stream": stream})
            assert is_whole(response, "/v1/chat/completions", stream)
            assert response.headers["x-cortex-retries"] == "0"
