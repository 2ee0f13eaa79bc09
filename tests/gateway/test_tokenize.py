"""Counting a chat's tokens through the gateway."""

from __future__ import annotations

import json

from tests.stubs.fake_node import head


async def count_seven(request, writer):
    body = json.dumps({"model": "m", "count": 7, "context": 4096}).encode()
    writer.write(head(content_length=len(body)) + body)


async def test_a_chat_is_counted_by_the_node_as_it_came(house):
    house.node.answer = count_seven
    chat = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    answer = await house.client.post("/tokenize", json=chat)
    assert answer.json() == {"model": "m", "count": 7, "context": 4096}
    assert (house.node.requests[-1].path, house.node.requests[-1].json) == ("/tokenize", chat)


async def test_a_prompt_that_cannot_be_counted_is_refused_as_a_chat_is(house):
    unknown = await house.client.post("/tokenize", json={"model": "nope", "messages": []})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    nameless = await house.client.post("/tokenize", json={"messages": []})
    assert (nameless.status_code, nameless.json()["error"]["param"]) == (400, "model")
