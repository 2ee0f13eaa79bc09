"""Fields of a body that nobody knows: served, named to the client, counted."""

from __future__ import annotations

import json

import pytest
from prometheus_client import REGISTRY

from cortex_site.base.excerpt import MAX_NOTE_CHARS
from fleet.gateway.record import metrics
from tests.stubs.fake_node import head

USER = {"role": "user", "content": "Hi"}


def counted(dialect: str, field: str) -> float:
    return (
        REGISTRY.get_sample_value("cortex_unknown_fields_total", {"dialect": dialect, "field": field}) or 0.0
    )


async def test_unknown_fields_are_tolerated_and_counted(house, monkeypatch):
    monkeypatch.setattr(metrics, "_fields", set())
    before = counted("anthropic-messages", "moonphase"), counted("openai-responses", "other")
    asked = {"model": "m", "max_tokens": 1, "messages": [USER], "moonphase": "full"}
    assert (await house.client.post("/v1/messages", json=asked)).status_code == 200
    asked = {"model": "m", "input": "Hi", "store": False, "no such \n name": 1}
    assert (await house.client.post("/v1/responses", json=asked)).status_code == 200
    after = counted("anthropic-messages", "moonphase"), counted("openai-responses", "other")
    assert after == (before[0] + 1, before[1] + 1)


UNKNOWN = {
    "/v1/messages": {"max_tokens": 1, "messages": [USER]},
    "/v1/responses": {"input": "Hi", "store": False},
    "/api/chat": {"messages": [USER]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", UNKNOWN)
async def test_unknown_fields_are_named_to_the_client(house, path, stream):
    asked = {"model": "m", "stream": stream} | UNKNOWN[path]
    answer = await house.client.post(path, json=asked)
    assert "x-cortex-ignored" not in answer.headers
    strange = {"moonphase": "full", "top_n": None, "a\r\nx: \u2603": 1}
    answer = await house.client.post(path, json=asked | strange)
    assert (answer.status_code, answer.headers["x-cortex-ignored"]) == (200, "moonphase, top_n, a??x: ?")
    answer = await house.client.post(path, json=asked | {"x" * 10_000: 1})
    assert answer.headers["x-cortex-ignored"] == "x" * MAX_NOTE_CHARS


TURN = {"role": "user", "mood": 2}
COLOURED = {"text": "a", "colour": 1}
NESTED = {
    "/v1/messages": (
        {"messages": [TURN | {"content": [COLOURED | {"type": "text"}]}]},
        "user.mood, text.colour",
    ),
    "/v1/responses": (
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a", "colour": 1}], "mood": 2}
            ]
        },
        "input.mood, input_text.colour",
    ),
    "/api/chat": (
        {"messages": [USER | {"mood": 2}], "options": {"colour": 1}},
        "messages.mood, options.colour",
    ),
}


@pytest.mark.parametrize("path", NESTED)
async def test_unknown_fields_within_are_named_as_well(house, path):
    fields, named = NESTED[path]
    asked = {"model": "m", "stream": False} | UNKNOWN[path] | fields
    answer = await house.client.post(path, json=asked)
    assert (answer.status_code, set(answer.headers["x-cortex-ignored"].split(", "))) == (
        200,
        set(named.split(", ")),
    )


async def test_what_a_neuron_ignores_is_named_as_well(house):
    async def answer(request, writer):
        body = json.dumps({"id": "c", "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})
        writer.write(head(content_length=len(body), x_cortex_ignored="reasoning_effort") + body.encode())

    house.node.answer = answer
    asked = {"model": "m", "max_tokens": 1, "messages": [USER], "moonphase": 1}
    told = await house.client.post("/v1/messages", json=asked)
    assert told.headers["x-cortex-ignored"] == "moonphase, reasoning_effort"


async def test_a_count_of_tokens_names_unknown_fields(house):
    async def answer(request, writer):
        writer.write(head(content_length=11) + b'{"count":3}')

    house.node.answer = answer
    asked = {"model": "m", "messages": [USER], "moonphase": 1}
    told = await house.client.post("/v1/messages/count_tokens", json=asked)
    assert told.headers["x-cortex-ignored"] == "moonphase"


def test_clients_cannot_make_labels_without_end(monkeypatch):
    monkeypatch.setattr(metrics, "_fields", set())
    metrics.count_unknown("d", [f"field{number}" for number in range(500)])
    rows = [
        sample.labels["field"]
        for sample in metrics.UNKNOWN_FIELDS.collect()[0].samples
        if sample.labels["dialect"] == "d"
    ]
    assert len(set(rows)) <= 65
