"""Responses that are kept: on a real Redis, with the official SDK."""

from __future__ import annotations

import asyncio
import hashlib
import json

import openai
import pytest

from cortex_site.config.cortex_toml import ResponsesSettings
from fleet.gateway.control.redis_link import LinkError
from fleet.gateway.dialects.response_store import ResponseStore
from fleet.snapshot import KeyView
from tests.gateway.conftest import make_house
from tests.stubs.fake_node import STREAM_HEAD, chunk, framed, sse
from tests.stubs.script import follow

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


def sdk(house, key="none"):
    return openai.AsyncOpenAI(base_url=f"{house.client.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture
async def kept(redis_server):
    async with make_house(redis_url=redis_server.url, redis_timeout_ms=5000) as house:
        yield house


def sent(house) -> list:
    """The conversation that reached the node last."""
    return house.node.requests[-1].json["messages"]


async def test_a_response_is_continued_by_its_id(kept):
    async with sdk(kept) as client:
        first = await client.responses.create(model="m", input="Hi", instructions="Be brief.")
        second = await client.responses.create(model="m", input="More", previous_response_id=first.id)
        third = await client.responses.create(model="m", input="On", previous_response_id=second.id)
    assert first.store is True
    assert third.previous_response_id == second.id
    said = {"role": "assistant", "content": "Hello there."}
    assert sent(kept) == [  # instructions are of one response alone
        {"role": "user", "content": "Hi"},
        said,
        {"role": "user", "content": "More"},
        said,
        {"role": "user", "content": "On"},
    ]


async def test_reasoning_and_calls_survive_the_chain(kept):
    kept.node.answer = follow([("weather", {"city": "Oslo"})], "Cold.", reasoning="Let me look.")
    ask = {"model": "m", "tools": [TOOL]}
    async with sdk(kept) as client:
        async with client.responses.stream(input="Oslo?", **ask) as stream:
            first = await stream.get_final_response()
        (call,) = [item for item in first.output if item.type == "function_call"]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "-3"}
        second = await client.responses.create(input=[result], previous_response_id=first.id, **ask)
        await client.responses.create(input="Thanks", previous_response_id=second.id, **ask)
    question, turn, told, words, thanks = sent(kept)
    assert question == {"role": "user", "content": "Oslo?"}
    assert turn["reasoning_content"] == "Let me look."
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert told == {"role": "tool", "tool_call_id": turn["tool_calls"][0]["id"], "content": "-3"}
    assert (words["content"], words["reasoning_content"]) == ("Cold.", "Let me look.")
    assert thanks == {"role": "user", "content": "Thanks"}


async def test_it_can_be_had_again_listed_and_deleted(kept):
    async with sdk(kept) as client:
        first = await client.responses.create(model="m", input="Hi")
        parts = [{"role": "user", "content": "More"}, {"role": "assistant", "content": "and"}]
        second = await client.responses.create(model="m", input=parts, previous_response_id=first.id)
        assert await client.responses.retrieve(second.id) == second
        items = [item async for item in client.responses.input_items.list(second.id, limit=1, order="asc")]
        assert [(item.role, item.content[0].text) for item in items] == [
            ("user", "Hi"),
            ("assistant", "Hello there."),
            ("user", "More"),
            ("assistant", "and"),
        ]
        assert len({item.id for item in items}) == 4
        newest = await client.responses.input_items.list(second.id)
        assert [item.id for item in newest.data] == [item.id for item in reversed(items)]
        await client.responses.delete(first.id)
        for missing in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await missing(first.id)
        await client.responses.create(model="m", input="x", previous_response_id=second.id)  # whole in itself


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "order=up", "after=nope"])
async def test_a_page_that_cannot_be(kept, query):
    made = (await kept.client.post("/v1/responses", json={"model": "m", "input": "Hi"})).json()
    answer = await kept.client.get(f"/v1/responses/{made['id']}/input_items?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.split("=")[0])


async def test_what_is_not_to_be_stored_is_not(kept):
    async with sdk(kept) as client:
        made = await client.responses.create(model="m", input="Hi", store=False)
        assert made.store is False
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="m", input="Hi", previous_response_id=made.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_what_runs_in_the_foreground_cannot_be_cancelled(kept):
    async with sdk(kept) as client:
        made = await client.responses.create(model="m", input="Hi")
        with pytest.raises(openai.BadRequestError, match="background"):
            await client.responses.cancel(made.id)
        with pytest.raises(openai.BadRequestError, match="streamed again"):
            await client.responses.retrieve(made.id, stream=True)


async def test_a_response_is_its_owners_alone(kept):
    keys = [KeyView(name=name, digest=hashlib.sha256(name.encode()).hexdigest()) for name in ("one", "other")]
    kept.control.change(keys={key.digest: key for key in keys}, has_keys=True)
    await kept.until(lambda snapshot: snapshot.configuration.has_keys)
    async with sdk(kept, "one") as one, sdk(kept, "other") as other:
        made = await one.responses.create(model="m", input="Hi")
        assert (await one.responses.retrieve(made.id)).id == made.id
        for forbidden in (
            other.responses.retrieve,
            other.responses.delete,
            other.responses.cancel,
            other.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await forbidden(made.id)
        with pytest.raises(openai.BadRequestError):
            await other.responses.create(model="m", input="x", previous_response_id=made.id)
        assert (await one.responses.retrieve(made.id)).id == made.id
    assert (await kept.client.get(f"/v1/responses/{made.id}")).status_code == 401


async def test_without_redis_answers_are_answers_and_chains_wait(redis_server):
    async with make_house(redis_url=redis_server.url, redis_timeout_ms=5000) as house, sdk(house) as client:
        made = await client.responses.create(model="m", input="Hi")
        redis_server.stop()
        assert (await client.responses.create(model="m", input="Hi", store=False)).output_text
        assert (await client.responses.create(model="m", input="Hi")).output_text == "Hello there."
        raw = {"model": "m", "input": "x", "previous_response_id": made.id}
        refused = await house.client.post("/v1/responses", json=raw)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "response_store_away")
        assert refused.headers["retry-after"]
        assert (await house.client.get(f"/v1/responses/{made.id}")).status_code == 503
        redis_server.start()
        async with asyncio.timeout(10):
            while True:
                again = await client.responses.create(model="m", input="Hi")
                found = await house.client.get(f"/v1/responses/{again.id}")
                if found.status_code == 200:
                    break
                await asyncio.sleep(0.05)


async def test_one_that_was_cut_short_can_be_continued(kept):
    async def cut(request, writer):
        end = chunk({"content": "Hel"}) + chunk({}, "length") + sse(b"[DONE]")
        writer.write(STREAM_HEAD + framed(end) + b"0\r\n\r\n")

    async def answer(request, writer):
        kept.node.answer = original
        await cut(request, writer)

    original, kept.node.answer = kept.node.answer, answer
    async with sdk(kept) as client:
        async with client.responses.stream(model="m", input="Hi") as stream:
            async for event in stream:
                last = event
        assert last.type == "response.incomplete"
        assert last.response.incomplete_details.reason == "max_output_tokens"
        assert (await client.responses.retrieve(last.response.id)).status == "incomplete"
        await client.responses.create(model="m", input="On", previous_response_id=last.response.id)
    assert sent(kept)[1] == {"role": "assistant", "content": "Hel"}


async def test_one_that_failed_is_not_kept(kept):
    async def fail(request, writer):
        error = sse({"error": {"message": "out of memory", "code": "oom"}})
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"}) + error) + b"0\r\n\r\n")

    kept.node.answer = fail
    answer = await kept.client.post("/v1/responses", json={"model": "m", "input": "Hi", "stream": True})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "response.failed"
    ident = events[-1]["response"]["id"]
    assert (await kept.client.get(f"/v1/responses/{ident}")).status_code == 404


# --- bounds ---


@pytest.fixture
async def make_store(redis_server):
    stores = []

    def make(**bounds):
        store = ResponseStore(redis_server.url, ResponsesSettings(**bounds), timeout_s=1)
        stores.append(store)
        return store

    yield make
    for store in stores:
        await store.close()


async def kept_of(store, *names):
    return [name for name in names if await store.get("o", name) is not None]


async def test_the_oldest_go_where_there_is_no_room(make_store, redis_server):
    store = make_store(max_total_bytes=1000)
    for name in "abcd":
        store.keep("o", name, b"x" * 300)
        await store.get("o", name)
    assert await kept_of(store, *"abcd") == ["b", "c", "d"]
    assert await store.delete("o", "b")
    assert not await store.delete("o", "b")
    store.keep("o", "e", b"x" * 300)
    assert await kept_of(store, *"cde") == ["c", "d", "e"]
    assert int(redis_server.client.get("cortex:responses:bytes")) == 900


async def test_one_that_is_too_large_is_not_kept(make_store):
    store = make_store(max_bytes=10)
    store.keep("o", "a", b"x" * 11)
    assert await store.get("o", "a") is None


async def test_what_expired_takes_no_room(make_store, redis_server):
    store = make_store(ttl_s=1, max_total_bytes=1000)
    assert await store.get("o", "a") is None  # connects
    store.keep("o", "a", b"x" * 600)
    assert await store.get("o", "a")
    async with asyncio.timeout(10):
        while await store.get("o", "a"):
            await asyncio.sleep(0.05)
        while True:
            store.keep("o", "b", b"x" * 300)
            await store.get("o", "b")
            if int(redis_server.client.get("cortex:responses:bytes")) < 600:
                break
            await asyncio.sleep(0.05)


async def test_a_link_that_is_lost_is_made_anew(make_store, redis_server):
    store = make_store()
    store.keep("o", "a", b"x")  # before any connection
    async with asyncio.timeout(10):
        while await store.get("o", "a") is None:
            await asyncio.sleep(0.01)
    redis_server.client.client_kill_filter(_type="normal", skipme=True)
    store.keep("o", "b", b"x")
    async with asyncio.timeout(10):
        while not await found(store, "a"):
            await asyncio.sleep(0.01)


async def found(store, name):
    try:
        return await store.get("o", name)
    except LinkError:
        return None
