"""Keys with limits at the API: what clients see of them, and that every end of a request gives back."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from prometheus_client import REGISTRY

from fleet.key_limits import KeyLimits
from fleet.snapshot import KeyView
from tests.gateway.conftest import make_house
from tests.stubs.fake_node import HELLO, STREAM_HEAD, answer_hello, chunk, framed, refuse

BEARER = {"authorization": "Bearer sk-1"}
MESSAGE = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
EXACT = 10  # the fake node's usage: 7 and 3


async def limit(house, **limits) -> None:
    digest = hashlib.sha256(b"sk-1").hexdigest()
    keys = {digest: KeyView("laptop", digest, limits=KeyLimits(**limits))}
    house.control.change(keys=keys, has_keys=True)
    await house.until(lambda snapshot: snapshot.configuration.keys == keys)
    house.client.headers.update(BEARER)


@pytest.fixture(params=["redis", "memory"])
async def limited(request):
    """A house whose limiter has Redis, or does not."""
    url = request.getfixturevalue("redis_server").url if request.param == "redis" else None
    if url:
        request.getfixturevalue("redis_server").client.flushall()
    async with make_house(**({"redis_url": url} if url else {})) as house:
        yield house


async def test_answers_say_what_is_left(limited):
    await limit(limited, requests_per_minute=60, tokens_per_minute=6000)
    answer = await limited.chat(max_tokens=100)
    assert answer.status_code == 200
    headers = answer.headers
    assert headers["x-ratelimit-limit-requests"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "59"
    assert headers["x-ratelimit-reset-requests"] == "1s"
    assert headers["x-ratelimit-limit-tokens"] == "6000"
    reserved = 100 + -(-len(limited.node.requests[0].body) // 4)
    assert headers["x-ratelimit-remaining-tokens"] == str(6000 - reserved)
    streamed = await limited.chat(stream=True, max_tokens=100)
    assert streamed.headers["x-ratelimit-remaining-requests"] in {"58", "59"}
    # The first one's reservation was settled: only what it used is gone.
    assert int(streamed.headers["x-ratelimit-remaining-tokens"]) >= 6000 - EXACT - reserved - 40


async def test_too_many_requests(limited):
    await limit(limited, requests_per_minute=2)
    for _ in range(2):
        assert (await limited.chat()).status_code == 200
    refused = await limited.chat()
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("rate_limit_exceeded", "requests", None)
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    record = await limited.record(3)
    assert (record.outcome, record.status, record.node) == ("rejected", 429, "")
    assert len(limited.node.requests) == 2


async def test_anthropic_clients_get_their_own_headers_and_error(limited):
    await limit(limited, requests_per_minute=1, tokens_per_minute=6000)
    answer = await limited.client.post("/v1/messages", json=MESSAGE)
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert answer.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert "x-ratelimit-limit-requests" not in answer.headers
    refused = await limited.client.post("/v1/messages", json=MESSAGE)
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_budget_is_spent_by_what_was_used(limited):
    await limit(limited, budget_tokens=200)
    for _ in range(12):  # each reserves some sixty and uses ten
        assert (await limited.chat(max_tokens=30, stream=True)).status_code == 200
    refused = await limited.chat(max_tokens=100)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "insufficient_quota")
    assert "200 tokens a month" in error["message"]
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_request_that_never_fits_is_told_so_without_a_wait(limited):
    await limit(limited, tokens_per_minute=100)
    refused = await limited.chat(max_tokens=101)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    assert "max_tokens" in refused.json()["error"]["message"]
    assert "retry-after" not in refused.headers


async def test_a_burst_does_not_overspend(limited):
    await limit(limited, budget_tokens=500)
    answers = await asyncio.gather(*(limited.chat(max_tokens=100) for _ in range(20)))
    served = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} == {200, 429}
    assert served * EXACT <= 500


async def test_a_token_count_costs_a_request_and_no_tokens(limited):
    await limit(limited, tokens_per_minute=60, requests_per_minute=60)

    async def count(request, writer):
        writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{"count": 5}')

    limited.node.answer = count
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi " * 500}]}
    answer = await limited.client.post("/v1/messages/count_tokens", json=body)
    assert answer.json() == {"input_tokens": 5}
    assert answer.headers["anthropic-ratelimit-tokens-remaining"] == "60"


async def free(limited) -> None:
    """One place, and it is free again."""
    async with asyncio.timeout(10):
        while (await limited.chat()).status_code == 429:
            await asyncio.sleep(0.01)


async def test_every_end_gives_its_place_back(limited):
    await limit(limited, concurrent_requests=1)
    limited.node.answer = refuse(400, "bad")
    assert (await limited.chat()).status_code == 400
    limited.node.answer = refuse(503, "busy")
    assert (await limited.chat()).status_code == 503

    async def cut(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "a"})))
        await writer.drain()
        writer.transport.abort()

    limited.node.answer = cut
    assert "node_lost" in (await limited.chat(stream=True)).text

    async def hang(request, writer):
        await request.gone.wait()

    limited.node.answer = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await limited.chat()
    limited.node.answer = type(limited.node)().answer
    await free(limited)


async def test_a_stream_that_is_left_is_charged_for_what_passed(limited):
    await limit(limited, budget_tokens=1000)

    async def endless(request, writer):
        writer.write(STREAM_HEAD)
        for _ in range(30):
            writer.write(framed(chunk({"content": "word "})))
        await writer.drain()
        await request.gone.wait()

    limited.node.answer = endless
    body = {"model": "m", "messages": [], "stream": True, "max_tokens": 500}
    seen = 0
    async with limited.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            seen += line.startswith("data:")
            if seen == 30:
                break
    record = await limited.record()
    assert (record.outcome, record.completion_tokens) == ("cancelled", 0)
    limited.node.answer = type(limited.node)().answer
    assert (await limited.chat(max_tokens=900)).status_code == 200
    assert (await limited.chat(max_tokens=950)).status_code == 429  # 30 and its prompt are gone


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_answer_pays_for_the_prompt(limited, stream):
    await limit(limited, budget_tokens=1000)
    reached = asyncio.Event()

    async def hang(request, writer):
        reached.set()
        await request.gone.wait()

    limited.node.answer = hang
    prompt = {"messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 300}  # some 500 tokens
    asking = asyncio.create_task(limited.chat(stream=stream, **prompt))
    await reached.wait()
    asking.cancel()
    await limited.record()
    limited.node.answer = answer_hello
    assert (await limited.chat(max_tokens=400)).status_code == 200  # what was reserved for an answer is back
    assert (await limited.chat(max_tokens=500)).status_code == 429


async def test_a_client_that_leaves_while_the_model_loads_pays_nothing(redis_server):
    async with make_house(loaded=False, redis_url=redis_server.url) as house:
        await limit(house, budget_tokens=1000)
        prompt = {"messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 300}
        asking = asyncio.create_task(house.chat(**prompt))
        async with asyncio.timeout(10):
            while not house.control.operations:
                await asyncio.sleep(0.01)
        asking.cancel()
        await house.record()
        await house.node.set_model("m")
        await house.until_routable()
        assert (await house.chat(max_tokens=950)).status_code == 200


async def test_a_client_that_leaves_while_redis_is_asked_pays_nothing(redis_server):
    redis_server.client.flushall()
    async with make_house(redis_url=redis_server.url) as house:
        await limit(house, budget_tokens=1000)
        assert (await house.chat(max_tokens=30)).status_code == 200
        redis_server.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        try:
            await send_and_leave(house, max_tokens=500)
            record = await house.record(2)
        finally:
            redis_server.client.execute_command("CLIENT", "UNPAUSE")
        assert (record.outcome, record.node) == ("cancelled", "")
        assert (await house.chat(max_tokens=900)).status_code == 200


async def send_and_leave(house, **extra) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | extra).encode()
    url = house.client.base_url
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {BEARER['authorization']}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


async def test_keys_without_limits_never_ask_redis(redis_server):
    async with make_house(redis_url=redis_server.url) as house:
        await limit(house)
        answer = await house.chat(stream=True)
        assert "".join(HELLO[:1]) in answer.text
        assert "cmdstat_evalsha" not in redis_server.client.info("commandstats")
        await limit(house, requests_per_minute=5)
        await house.chat()
        assert "cmdstat_evalsha" in redis_server.client.info("commandstats")


async def test_limits_that_are_not_shared_are_logged_reported_and_exported(caplog):
    async with make_house() as house:
        await limit(house, requests_per_minute=5)
        assert (await house.chat()).status_code == 200
        health = (await house.client.get("/health")).json()
        assert (health["status"], health["missing"]) == ("impaired", ["redis"])
        async with asyncio.timeout(10):
            while REGISTRY.get_sample_value("cortex_limiter_local") != 1:
                await asyncio.sleep(0.01)
    assert [line.message for line in caplog.records if line.name == "cortex.limits"] == [
        "Redis is away; limits hold per worker"
    ]


async def test_no_error_holds_the_secret(limited):
    await limit(limited, requests_per_minute=1)
    await limited.chat()
    assert "sk-1" not in json.dumps((await limited.chat()).json())
