"""What the gateway keeps between requests: items by their ids, conversations, sealed thoughts, and responses
that are made in the background. On a real Redis, with the official SDK.
"""

from __future__ import annotations

import asyncio
import hashlib

import openai
import pytest

from cortex_site.config.cortex_toml import ResponsesSettings
from fleet.snapshot import KeyView
from fleet.translation.responses.sealed import PERIOD_S, PERIODS, Sealer
from tests.gateway.conftest import make_house
from tests.gateway.test_responses import sdk, sent
from tests.stubs.fake_node import answer_hello, head, refuse
from tests.stubs.script import follow

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}


@pytest.fixture
async def kept(redis_server):
    async with make_house(redis_url=redis_server.url, redis_timeout_ms=5000) as house:
        yield house


@pytest.fixture
async def client(kept):
    async with sdk(kept) as client:
        yield client


def messages(*texts):
    return [{"role": "user", "content": text} for text in texts]


# --- items by their ids ---


async def test_items_are_named_by_their_ids(kept, client):
    kept.node.answer = follow([("weather", {"city": "Oslo"})], "Cold.", reasoning="Let me look.")
    first = await client.responses.create(model="m", input="Oslo?", tools=[TOOL])
    call = first.output[-1]
    asked = [item async for item in client.responses.input_items.list(first.id)]
    given = [{"type": "item_reference", "id": item.id} for item in (*asked, *first.output)]
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": "-3"})
    await client.responses.create(model="m", input=given, tools=[TOOL])
    question, turn, told = sent(kept)
    assert question == {"role": "user", "content": "Oslo?"}
    assert (turn["reasoning_content"], turn["tool_calls"][0]["id"]) == ("Let me look.", call.call_id)
    assert told["content"] == "-3"


@pytest.mark.parametrize("ident", ["msg_1", f"msg_{'0' * 32}_0", f"msg_conv_{'0' * 32}_7"])
async def test_an_item_that_is_not_there_is_named(kept, client, ident):
    given = [*messages("Hi"), {"type": "item_reference", "id": ident}]
    with pytest.raises(openai.APIStatusError) as caught:
        await client.responses.create(model="m", input=given)
    assert caught.value.status_code in {400, 404}
    assert not kept.node.requests


# --- conversations ---


async def test_a_conversation_grows_with_its_answers(kept, client):
    made = await client.conversations.create(items=messages("Hi"), metadata={"a": "b"})
    assert made.metadata == {"a": "b"}
    first = await client.responses.create(model="m", input="One", conversation=made.id)
    await client.responses.create(model="m", input="Two", conversation={"id": made.id}, store=False)
    assert first.conversation.id == made.id
    assert sent(kept) == [HI, *messages("One"), HELLO, *messages("Two")]
    items = [item async for item in client.conversations.items.list(made.id, order="asc", limit=2)]
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]
    assert items[1].id == f"msg_{first.id.removeprefix('resp_')}_in0"


async def test_a_streamed_answer_is_in_its_conversation(client):
    made = await client.conversations.create()
    async with client.responses.stream(model="m", input="One", conversation=made.id) as stream:
        await stream.get_final_response()
    page = await client.conversations.items.list(made.id)
    assert [item.content[0].text for item in page.data] == ["Hello there.", "One"]


async def test_a_conversation_is_changed_and_deleted(client):
    made = await client.conversations.create()
    added = await client.conversations.items.create(made.id, items=messages("a", "b"))
    assert [item.content[0].text for item in added.data] == ["a", "b"]
    assert (await client.conversations.items.retrieve(added.data[0].id, conversation_id=made.id)).id
    await client.conversations.items.delete(added.data[0].id, conversation_id=made.id)
    left = [item.id async for item in client.conversations.items.list(made.id)]
    assert left == [added.data[1].id]
    assert (await client.conversations.update(made.id, metadata={"c": "d"})).metadata == {"c": "d"}
    assert (await client.conversations.retrieve(made.id)).metadata == {"c": "d"}
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.delete(added.data[0].id, conversation_id=made.id)
    assert (await client.conversations.delete(made.id)).deleted is True
    for gone in (client.conversations.retrieve, client.conversations.delete):
        with pytest.raises(openai.NotFoundError):
            await gone(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="m", input="Hi", conversation=made.id)


async def test_many_change_a_conversation_at_once(client):
    made = await client.conversations.create()
    adding = (client.conversations.items.create(made.id, items=messages(str(n))) for n in range(4))
    await asyncio.gather(*adding)
    items = [item.content[0].text async for item in client.conversations.items.list(made.id)]
    assert sorted(items) == ["0", "1", "2", "3"]


async def test_a_full_conversation_takes_no_more(redis_server):
    bounds = ResponsesSettings(max_bytes=1000)
    async with make_house(redis_url=redis_server.url, responses=bounds) as house, sdk(house) as client:
        made = await client.conversations.create()
        await client.responses.create(model="m", input="x" * 2000, conversation=made.id, store=False)
        assert (await client.conversations.items.list(made.id)).data == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": [{"type": "dance"}]}, "items[0].type"),
        ("", {"items": [{"role": "user", "content": 3}]}, "items[0].content"),
        ("", {"items": messages(*"a" * 21)}, "items"),
        ("", {"items": [{"type": "item_reference", "id": "x"}]}, "items[0].type"),
        ("", {"metadata": {"a": 1}}, "metadata"),
        ("/conv_1/items", {"items": []}, "items"),
        ("/conv_1", {}, "metadata"),
    ],
)
async def test_bad_conversations_name_the_field(kept, path, body, param):
    answer = await kept.client.post(f"/v1/conversations{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_request_continues_one_thing(client):
    made = await client.conversations.create()
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(
            model="m", input="a", conversation=made.id, previous_response_id="resp_1"
        )
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="m", input="a", conversation=5)
    assert caught.value.param == "conversation"


# --- sealed thoughts ---


async def test_thoughts_survive_without_a_store(kept, client):
    kept.node.answer = follow([("weather", {})], "Cold.", reasoning="Let me look.")
    ask = {"model": "m", "tools": [TOOL], "store": False, "include": ["reasoning.encrypted_content"]}
    async with client.responses.stream(input="Oslo?", reasoning={"summary": "auto"}, **ask) as stream:
        kinds = [event.type async for event in stream]
        first = await stream.get_final_response()
    thought, call = first.output
    assert "response.reasoning_summary_text.delta" in kinds
    assert (thought.summary[0].text, thought.content) == ("Let me look.", [])
    kept_by_client = {
        "type": "reasoning",
        "id": thought.id,
        "summary": [],
        "encrypted_content": thought.encrypted_content,
    }
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "-3"}
    given = [*messages("Oslo?"), kept_by_client, call.model_dump(exclude_none=True), output]
    await client.responses.create(input=given, **ask)
    assert sent(kept)[1]["reasoning_content"] == "Let me look."
    assert "Let me look." not in thought.encrypted_content


async def test_thoughts_are_sealed_only_where_asked(kept, client):
    kept.node.answer = follow([], "Cold.", reasoning="Let me look.")
    made = await client.responses.create(model="m", input="Oslo?")
    assert (made.output[0].encrypted_content, made.output[0].content[0].text) == (None, "Let me look.")


async def test_a_sealed_thought_is_its_owner_s_alone(kept):
    keys = [KeyView(name=name, digest=hashlib.sha256(name.encode()).hexdigest()) for name in ("one", "other")]
    kept.control.change(keys={key.digest: key for key in keys}, has_keys=True)
    await kept.until(lambda snapshot: snapshot.configuration.has_keys)
    kept.node.answer = follow([], "Cold.", reasoning="Let me look.")
    ask = {"model": "m", "include": ["reasoning.encrypted_content"]}
    async with sdk(kept, "one") as one, sdk(kept, "other") as other:
        made = await one.responses.create(input="Oslo?", **ask)
        given = [made.output[0].model_dump(exclude_none=True), *messages("Hi")]
        await one.responses.create(input=given, **ask)
        with pytest.raises(openai.BadRequestError) as caught:
            await other.responses.create(input=given, **ask)
    assert caught.value.param == "input[0].encrypted_content"


def test_keys_are_rotated():
    now = 1e9
    sealer = Sealer(["a"], "o", lambda: now)
    sealed = sealer.seal("x", "signed")
    for later, opens in ((PERIODS - 1) * PERIOD_S, True), (PERIODS * PERIOD_S, False):
        found = Sealer(["new", "a"], "o", lambda later=later: now + later).open(sealed)
        assert (found is not None) == opens
    assert Sealer(["other"], "o", lambda: now).open(sealed) is None
    assert sealer.open(sealed[:-4]) is None
    assert sealer.open(sealed).signature == "signed"


async def test_a_conversation_is_compacted(kept, client):
    given = [*messages("Hi"), HELLO, *messages("Go on")]
    made = await client.responses.compact(model="m", input=given)
    assert sent(kept)[:-1] == given
    users, (summary,) = made.output[:-1], made.output[-1:]
    assert [item.content[0].text for item in users] == ["Hi", "Go on"]
    items = [item.model_dump(exclude_none=True, warnings=False) for item in made.output]
    await client.responses.create(model="m", input=[*items, *messages("More")])
    assert sent(kept)[2]["content"].endswith("Hello there.")
    assert summary.type == "compaction"
    assert made.usage.input_tokens == 7


async def test_input_tokens_are_counted(kept, client):
    async def count(request, writer):
        assert request.path == "/tokenize"
        body = b'{"count": 42, "max_model_len": 10, "tokens": []}'
        writer.write(head(content_length=len(body)) + body)

    first = await client.responses.create(model="m", input="Hi")
    kept.node.answer = count
    counted = await client.responses.input_tokens.count(model="m", input="On", previous_response_id=first.id)
    assert counted.input_tokens == 42
    assert sent(kept) == [HI, HELLO, *messages("On")]


# --- the background ---


@pytest.fixture
def gate(kept):
    """The node answers once it is set."""
    gate = asyncio.Event()

    async def answer(request, writer):
        await gate.wait()
        await answer_hello(request, writer)

    kept.node.answer = answer
    return gate


async def ended(client, ident):
    async with asyncio.timeout(20):
        while (response := await client.responses.retrieve(ident)).status == "in_progress":
            await asyncio.sleep(0.02)
    return response


async def test_a_response_is_made_in_the_background(kept, client, gate):
    begun = await client.responses.create(model="m", input="Hi", background=True)
    assert (begun.status, begun.background, begun.output) == ("in_progress", True, [])
    assert (await client.responses.retrieve(begun.id)).status == "in_progress"
    gate.set()
    made = await ended(client, begun.id)
    assert (made.status, made.output_text, made.id) == ("completed", "Hello there.", begun.id)
    more = await client.responses.create(model="m", input="On", previous_response_id=begun.id)
    assert more.output_text == "Hello there."


async def test_the_word_elsewhere_asks_for_no_background(kept, client):
    schema = {"type": "object", "properties": {}, "default": {"background": True}}
    made = await client.responses.create(model="m", input="Hi", tools=[TOOL | {"parameters": schema}])
    assert (made.status, made.background) == ("completed", False)


async def test_a_response_in_the_background_is_cancelled(kept, client, gate):
    begun = await client.responses.create(model="m", input="Hi", background=True)
    async with asyncio.timeout(20):
        while not kept.node.requests:
            await asyncio.sleep(0.02)
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    async with asyncio.timeout(20):
        await kept.node.requests[-1].gone.wait()
    gate.set()
    assert (await client.responses.retrieve(begun.id)).status == "cancelled"


async def test_a_response_in_the_background_fails_as_its_node_does(kept, client):
    kept.node.answer = refuse(400, "invalid_value", "No such thing.")
    begun = await client.responses.create(model="m", input="Hi", background=True)
    made = await ended(client, begun.id)
    assert (made.status, made.error.message) == ("failed", "No such thing.")


async def test_a_response_whose_gateway_was_stopped_has_failed(redis_server):
    async with make_house(redis_url=redis_server.url) as house:
        house.node.answer = never
        async with sdk(house) as client:
            begun = await client.responses.create(model="m", input="Hi", background=True)
    async with make_house(redis_url=redis_server.url) as house, sdk(house) as client:
        made = await client.responses.retrieve(begun.id)
    assert (made.status, made.error.code) == ("failed", "server_error")


async def never(request, writer):
    await request.gone.wait()


async def test_a_response_that_nobody_makes_has_failed(kept, client, gate):
    begun = await client.responses.create(model="m", input="Hi", background=True)
    store = kept.gateway.responses
    data = await store.get("anonymous", begun.id)
    lost = f"resp_{'1' * 32}"
    await store.put("anonymous", lost, data)  # as a worker leaves it that is killed
    made = await client.responses.retrieve(lost)
    assert (made.status, made.error.code) == ("failed", "server_error")
    gate.set()


@pytest.mark.parametrize(("more", "param"), [({"stream": True}, "stream"), ({"store": False}, "store")])
async def test_what_cannot_be_in_the_background(kept, more, param):
    asked = {"model": "m", "input": "Hi", "background": True} | more
    answer = await kept.client.post("/v1/responses", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_worker_makes_so_many_at_once(redis_server):
    bounds = ResponsesSettings(max_background=1)
    async with make_house(redis_url=redis_server.url, responses=bounds) as house, sdk(house) as client:
        house.node.answer = never
        await client.responses.create(model="m", input="Hi", background=True)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.responses.create(model="m", input="Hi", background=True)
    assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("background_full", "5")


# --- what is elsewhere ---


@pytest.mark.parametrize(
    "path", ["moderations", "audio/speech", "images/generations", "fine_tuning/jobs", "vector_stores"]
)
async def test_what_is_not_here_says_what_is(kept, path):
    answer = await kept.client.post(f"/v1/{path}", json={})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_served")
    assert "/v1/chat/completions" in error["message"]
