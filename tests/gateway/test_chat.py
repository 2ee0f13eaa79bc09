from __future__ import annotations

import json

import pytest

from tests.gateway.conftest import make_house
from tests.stubs.fake_node import HELLO, USAGE, answer_hello, chunk


def events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]


async def test_answer_passes_byte_for_byte(house):
    sent = []

    async def answer(request, writer):
        original = writer.write
        writer.write = lambda data: (sent.append(data), original(data))[1]
        await answer_hello(request, writer)

    house.node.answer = answer
    response = await house.chat()
    assert response.status_code == 200
    assert response.content in b"".join(sent)
    assert response.json()["choices"][0]["message"]["content"] == "Hello there."


async def test_stream_passes_every_chunk_in_order(house):
    response = await house.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    words = [json.loads(item)["choices"][0]["delta"].get("content") for item in chunks]
    assert [word for word in words if word] == HELLO


async def test_usage_reaches_the_record_but_only_a_client_that_asked(house):
    plain = await house.chat(stream=True)
    asked = await house.chat(stream=True, stream_options={"include_usage": True})
    assert "usage" not in plain.text
    assert json.loads(events(asked.text)[-2])["usage"] == USAGE
    for number in (1, 2):
        record = await house.record(number)
        counts = (record.prompt_tokens, record.completion_tokens, record.cached_tokens)
        assert counts == (7, 3, 4)


async def test_record_of_a_stream(house):
    response = await house.chat(stream=True)
    record = await house.record()
    assert record.request_id == response.headers["x-request-id"]
    assert (record.model, record.node, record.dialect) == ("m", "n0", "openai-chat")
    assert (record.outcome, record.status, record.stream, record.cold) == ("ok", 200, True, False)
    assert 0 < record.ttft_s <= record.latency_s


async def test_a_whole_answer_of_a_neuron_has_a_first_token_and_a_speed(house, monkeypatch):
    monkeypatch.setitem(USAGE, "timings", {"decode_ms": 0.5})
    await house.chat()
    record = await house.record()
    assert record.latency_s - record.ttft_s == pytest.approx(0.0005, abs=0.0005)
    assert record.tokens_per_second


@pytest.mark.parametrize("timings", [None, 7, "x", [], {}, {"decode_ms": "x"}, {"decode_ms": -1}])
async def test_what_other_servers_call_timings_is_passed_over(house, monkeypatch, timings):
    monkeypatch.setitem(USAGE, "timings", timings)
    await house.chat()
    record = await house.record()
    assert (record.ttft_s, record.prompt_tokens) == (None, 7)


async def test_a_first_token_is_not_before_its_request(house, monkeypatch):
    monkeypatch.setitem(USAGE, "timings", {"decode_ms": 1e12})
    await house.chat()
    assert (await house.record()).ttft_s == 0


async def test_request_id_of_the_client_is_kept_and_passed_on(house):
    body = {"model": "m", "messages": []}
    response = await house.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    assert house.node.requests[0].headers["x-request-id"] == "abc-1"


async def test_harmful_request_id_is_replaced(house):
    body = {"model": "m", "messages": []}
    response = await house.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "a b"})
    assert response.headers["x-request-id"].startswith("req-")


async def test_alias_reaches_the_node_as_the_model(house):
    house.control.change(aliases={"big": "m"})
    await house.until(lambda snapshot: snapshot.resolve("big") == "m")
    response = await house.chat("big", temperature=0.125)
    assert response.status_code == 200
    assert house.node.requests[0].json["model"] == "m"
    assert house.node.requests[0].json["temperature"] == 0.125


async def test_body_is_not_touched_without_a_reason(house):
    raw = b'{ "model" : "m", "messages": [ ], "x": 1.50 }'
    await house.client.post("/v1/chat/completions", content=raw)
    assert house.node.requests[0].body == raw


async def test_anthropic_client_gets_its_own_dialect(house):
    body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    whole = (await house.client.post("/v1/messages", json=body)).json()
    assert whole["content"] == [{"type": "text", "text": "Hello there."}]
    assert whole["usage"]["output_tokens"] == 3
    stream = await house.client.post("/v1/messages", json=body | {"stream": True})
    names = [line.removeprefix("event: ") for line in stream.text.splitlines() if line.startswith("event: ")]
    assert names[0] == "message_start"
    assert names[-1] == "message_stop"
    assert (await house.record(2)).dialect == "anthropic-messages"


async def test_models_and_health(redis_server):
    async with make_house(redis_url=redis_server.url) as house:
        listed = (await house.client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["state"], model["context_length"]) for model in listed] == [
            ("m", "loaded", 4096)
        ]
        assert listed[0]["nodes"][0]["name"] == "n0"
        assert (await house.client.get("/v1/models/m")).json()["id"] == "m"
        health = (await house.client.get("/health")).json()
        assert health["status"] == "ok"
        assert health["nodes"] == {"healthy": 1, "total": 1}


async def test_every_endpoint_is_in_the_openapi_page(house):
    paths = (await house.client.get("/openapi.json")).json()["paths"]
    assert set(paths) >= {"/v1/chat/completions", "/v1/messages", "/v1/models", "/health"}


async def test_many_streams_at_once_stay_apart(house):
    async def answer(request, writer):
        word = request.json["messages"][0]["content"]
        house_answer = chunk({"content": word})
        from tests.stubs.fake_node import STREAM_HEAD, framed, sse

        writer.write(STREAM_HEAD + framed(house_answer) + framed(sse(b"[DONE]")) + b"0\r\n\r\n")

    import asyncio

    house.node.answer = answer
    bodies = [
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": f"w{n}"}]} for n in range(64)
    ]
    answers = await asyncio.gather(*(house.client.post("/v1/chat/completions", json=body) for body in bodies))
    for number, response in enumerate(answers):
        assert json.loads(events(response.text)[0])["choices"][0]["delta"]["content"] == f"w{number}"
