"""Ollama's API through the gateway, by bytes and by Ollama's own package."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import ollama
import pytest

from fleet.gateway import detour, load_requests
from fleet.snapshot import ProfileView
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import HELLO, STREAM_HEAD, USAGE, chunk, framed, head, refuse
from tests.stubs.script import follow

USER = {"role": "user", "content": "Hi"}
TEXT = "".join(HELLO)
LINES = "application/x-ndjson"


def lines(response):
    assert response.headers["content-type"] == LINES
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.fixture
async def client(house):
    async with ollama.AsyncClient(host=f"http://127.0.0.1:{house.port}") as found:
        yield found


async def answer_embeddings(request, writer):
    texts = request.json["input"]
    texts = [texts] if isinstance(texts, str) else texts
    data = [{"index": place, "embedding": [place, 0.5]} for place in range(len(texts))]
    body = json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 4}}).encode()
    writer.write(head(content_length=len(body)) + body)


def slow(node, answer):
    """Have the node take some time; returns a list that each answer's nanoseconds are added to."""
    took = []

    async def wait(request, writer):
        came = time.time()
        await asyncio.sleep(0.02)
        took.append((time.time() - came) * 1e9)
        await answer(request, writer)

    node.answer = wait
    return took


# --- the package ---


async def test_chat(house, client):
    took = slow(house.node, house.node.answer)
    answer = await client.chat(MODEL, [USER], options={"num_predict": 9, "temperature": 0})
    assert (answer.message.content, answer.done, answer.done_reason) == (TEXT, True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (7, 3)
    assert answer.eval_duration >= took[0]
    body = house.node.requests[-1].json
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (9, 0, False)
    record = await house.record()
    assert (record.dialect, record.outcome, record.prompt_tokens) == ("ollama-chat", "ok", 7)


async def test_chat_streams(house, client):
    took = slow(house.node, house.node.answer)
    parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
    assert "".join(part.message.content for part in parts) == TEXT
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (7, 3)
    assert 0 < parts[-1].prompt_eval_duration < parts[-1].total_duration
    assert parts[-1].total_duration >= took[0]
    assert (await house.record()).completion_tokens == USAGE["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_and_calls(house, client, stream):
    house.node.answer = follow([("weather", {"city": "Oslo"})], "Cold.", reasoning="Hm.")

    def weather(city: str) -> str:
        """How it is there.

        Args:
          city: where
        """
        return f"{city}: -3"

    async def ask(messages):
        asked = client.chat(MODEL, messages, tools=[weather], think=True, stream=stream)
        parts = [part async for part in await asked] if stream else [await asked]
        calls = [call for part in parts for call in part.message.tool_calls or ()]
        thinking = "".join(part.message.thinking or "" for part in parts)
        content = "".join(part.message.content for part in parts)
        return ollama.Message(role="assistant", content=content, thinking=thinking, tool_calls=calls or None)

    first = await ask([USER])
    (call,) = first.tool_calls
    assert (first.thinking, call.function.name) == ("Hm.", "weather")
    result = {"role": "tool", "tool_name": "weather", "content": weather(**call.function.arguments)}
    assert (await ask([USER, first, result])).content == "Cold."
    _, said, output = house.node.requests[-1].json["messages"]
    assert said["reasoning_content"] == "Hm."
    assert said["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert output == {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "Oslo: -3"}


@pytest.mark.parametrize("stream", [False, True])
async def test_generate(house, client, stream):
    asked = client.generate(MODEL, "Hi", system="Be brief.", format="json", stream=stream)
    parts = [part async for part in await asked] if stream else [await asked]
    assert "".join(part.response for part in parts) == TEXT
    assert parts[-1].done_reason == "stop"
    body = house.node.requests[-1].json
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, USER]
    assert body["response_format"] == {"type": "json_object"}


async def test_embed(house, client):
    took = slow(house.node, answer_embeddings)
    house.node.models[MODEL].capabilities = ["embeddings"]
    await house.node.set_model("other")  # publishes
    await house.until(lambda snapshot: snapshot.offer(MODEL).capabilities == ("embeddings",))
    assert (await client.show(MODEL)).capabilities == ["embedding"]
    answer = await client.embed(MODEL, ["a", "b"])
    assert answer.embeddings == [[0, 0.5], [1, 0.5]]
    assert answer.total_duration >= took[0]
    assert (answer.model, answer.prompt_eval_count) == (MODEL, 4)
    assert (await client.embeddings(MODEL, "a")).embedding == [0, 0.5]
    assert {request.path for request in house.node.requests} == {"/v1/embeddings"}


async def test_list_show_and_running(house, client):
    house.control.change(
        profiles={MODEL: ProfileView(MODEL, context=4096), "cold": ProfileView("cold")}, aliases={"a": MODEL}
    )
    await house.until(lambda snapshot: "a" in snapshot.configuration.aliases)
    listed = (await client.list()).models
    assert [model.model for model in listed] == ["cold", MODEL, "a"]
    assert listed[1].digest == listed[2].digest != listed[0].digest
    assert (listed[0].size, listed[1].size) == (0, 100 << 20)
    (running,) = (await client.ps()).models
    assert (running.name, running.context_length, running.size_vram) == (MODEL, 4096, 100 << 20)
    shown = await client.show("a:latest")
    assert shown.capabilities == ["completion"]
    assert shown.details.quantization_level == listed[1].details.quantization_level == "Q4_K"
    assert shown.modelinfo["cortex.context_length"] == 4096
    assert shown.modelinfo["general.architecture"] == "cortex"


async def test_errors_reach_the_package(house, client):
    for asked in (client.chat("other", [USER]), client.show("other"), client.pull("other")):
        with pytest.raises(ollama.ResponseError, match="'other' does not exist") as caught:
            await asked
        assert caught.value.status_code == 404


async def test_the_synchronous_client(house):
    def ask():
        with ollama.Client(host=f"http://127.0.0.1:{house.port}") as found:
            return [part.message.content for part in found.chat(MODEL, [USER], stream=True)]

    assert "".join(await asyncio.to_thread(ask)) == TEXT


# --- names, keys, errors ---


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}:latest"])
async def test_a_name_has_the_tag_latest_or_none(house, name):
    response = await house.client.post("/api/chat", json={"model": name, "messages": [USER], "stream": False})
    assert response.json()["model"] == name
    assert house.node.requests[-1].json["model"] == MODEL


async def test_a_server_s_own_tag_is_its_name(house):
    await house.node.set_model("llama:latest")
    await house.until_routable("llama:latest")
    await house.client.post("/api/chat", json={"model": "llama", "messages": [USER]})
    assert house.node.requests[-1].json["model"] == "llama:latest"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/api/chat", {"model": MODEL, "messages": [USER], "options": {"top_p": 2}}, "options.top_p: "),
        ("/api/generate", {"model": MODEL, "prompt": "a", "raw": True}, "raw: "),
        ("/api/embed", {"model": MODEL}, "input: "),
        ("/api/embeddings", {"model": MODEL}, "prompt: "),
        ("/api/show", {}, "model: "),
        ("/api/pull", {}, "model: "),
        ("/api/chat", {"model": MODEL, "keep_alive": 0}, "keep_alive: "),
        ("/api/chat", {"model": MODEL, "options": 1}, "options: "),
    ],
)
async def test_a_wrong_field_is_a_400_that_names_it(house, path, body, message):
    response = await house.client.post(path, json=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(message)


@pytest.mark.parametrize(
    ("param", "path", "named"),
    [
        ("max_tokens", "/api/chat", "options.num_predict"),
        ("repetition_penalty", "/api/chat", "options.repeat_penalty"),
        ("min_p", "/api/chat", "options.min_p"),
        ("response_format.json_schema.schema", "/api/chat", "format.schema"),
        ("messages[3].content", "/api/chat", "messages"),
        ("messages[0].content", "/api/generate", "prompt"),
        ("tools[1].function.name", "/api/chat", "tools[1].function.name"),
    ],
)
async def test_a_field_that_a_node_refuses_has_the_client_s_name(house, param, path, named):
    async def answer(request, writer):
        error = {"message": "no", "type": "invalid_request_error", "code": "x", "param": param}
        body = json.dumps({"error": error}).encode()
        writer.write(head(400, content_length=len(body)) + body)

    house.node.answer = answer
    response = await house.client.post(path, json={"model": MODEL, "messages": [USER], "prompt": "Hi"})
    assert response.status_code == 400
    assert response.json() == {"error": f"{named}: no"}


async def test_errors_have_ollama_s_envelope(house):
    wrong = await house.client.get("/api/create")
    assert (wrong.status_code, list(wrong.json())) == (404, ["error"])
    broken = await house.client.post("/api/chat", content=b"{")
    assert (broken.status_code, list(broken.json())) == (400, ["error"])
    house.node.answer = refuse(503, "overloaded", "later", retry_after="2")
    busy = await house.client.post("/api/chat", json={"model": MODEL, "messages": [USER]})
    assert (busy.status_code, list(busy.json())) == (503, ["error"])
    assert isinstance(busy.json()["error"], str)


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
async def test_a_key_is_asked_for(path):
    async with make_house(allowed_hosts=[]) as house:
        house.control.change(has_keys=True)
        await house.until(lambda snapshot: snapshot.configuration.has_keys)
        for response in (
            await house.client.get(path),
            await house.client.post("/api/pull", json={"model": MODEL}),
            await house.client.post("/api/chat", json={"model": MODEL, "messages": []}),
        ):
            assert response.status_code == 401
            assert list(response.json()) == ["error"]


async def test_what_says_that_the_server_is_there(house):
    assert (await house.client.get("/")).text == "Ollama is running"
    assert (await house.client.head("/")).status_code == 200
    assert "version" in (await house.client.get("/api/version")).json()


async def test_it_can_be_turned_off():
    async with make_house(ollama=False) as house:
        assert (await house.client.get("/")).status_code == 404
        assert (await house.client.get("/api/tags")).status_code == 404
        response = await house.client.post("/api/chat", json={"model": MODEL, "messages": [USER]})
        assert response.status_code == 404


# --- streams that break ---


async def test_a_stream_that_breaks_off_ends_with_a_line(house):
    async def answer(request, writer):
        writer.write(STREAM_HEAD + framed(chunk({"content": "He"})))
        await writer.drain()
        writer.transport.abort()

    house.node.answer = answer
    response = await house.client.post("/api/chat", json={"model": MODEL, "messages": [USER]})
    first, last = lines(response)
    assert first["message"]["content"] == "He"
    assert list(last) == ["error"]
    assert (await house.record()).error_code == "node_lost"


async def test_an_error_of_the_node_within_the_stream_is_a_line(house):
    async def answer(request, writer):
        error = json.dumps({"error": {"message": "full", "code": "x"}}).encode()
        writer.write(STREAM_HEAD + framed(chunk({"content": "He"})))
        writer.write(framed(b"data: " + error + b"\n\n") + b"0\r\n\r\n")

    house.node.answer = answer
    response = await house.client.post("/api/generate", json={"model": MODEL, "prompt": "Hi"})
    assert lines(response)[-1] == {"error": "full"}


# --- loading ---


@pytest.fixture
async def cold():
    async with make_house(loaded=False) as house:
        tasks = set()

        async def load(operation):
            await asyncio.sleep(0.1)
            await house.node.set_model(MODEL)
            operation.state = "succeeded"

        async def begin(operation):
            operation.node, operation.progress = "n0", 0.4
            tasks.add(asyncio.ensure_future(load(operation)))

        house.control.on_load = begin
        yield house


async def test_pull_loads_with_progress(cold, monkeypatch):
    monkeypatch.setattr(load_requests, "PROGRESS_S", 0.02)
    async with ollama.AsyncClient(host=f"http://127.0.0.1:{cold.port}") as client:
        steps = [step async for step in await client.pull(MODEL, stream=True)]
    assert (steps[0].status, steps[-1].status) == ("pulling manifest", "success")
    assert any((step.completed, step.total) == (40, 100) for step in steps)
    assert any("loading m on n0" in step.status for step in steps)
    assert len(cold.control.operations) == 1


async def test_pull_without_a_stream(cold):
    response = await cold.client.post("/api/pull", json={"name": MODEL, "stream": False})
    assert (response.status_code, response.json()) == (200, {"status": "success"})


@pytest.mark.parametrize(
    ("path", "said"),
    [("/api/chat", {"message": {"role": "assistant", "content": ""}}), ("/api/generate", {"response": ""})],
)
async def test_a_request_without_a_prompt_loads(cold, path, said):
    response = await cold.client.post(path, json={"model": MODEL, "keep_alive": "5m"})
    answer = response.json()
    assert response.status_code == 200
    assert (answer["done"], answer["done_reason"]) == (True, "load")
    assert answer | said == answer
    assert len(cold.control.operations) == 1
    assert cold.node.requests == []


async def test_a_load_that_fails(cold):
    async def fail(operation):
        operation.state, operation.error_code, operation.message = "failed", "model_broken", "no shard 2"

    cold.control.on_load = fail
    last = lines(await cold.client.post("/api/pull", json={"model": MODEL}))[-1]
    assert "no shard 2" in last["error"]
    whole = await cold.client.post("/api/pull", json={"model": MODEL, "stream": False})
    assert whole.status_code == 503
    assert "no shard 2" in whole.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/pull", {}, 200),
        ("/api/pull", {"stream": False}, 503),
        ("/api/chat", {"messages": []}, 503),
    ],
)
async def test_a_load_cut_off_by_a_stop_is_told_so(path, body, status):
    async with httpx.AsyncClient(timeout=20) as client:
        async with make_house(loaded=False) as house:
            url = f"http://127.0.0.1:{house.port}{path}"
            asking = asyncio.create_task(client.post(url, json={"model": MODEL} | body))
            async with asyncio.timeout(10):
                while not house.control.operations:
                    await asyncio.sleep(0.01)
        response = await asking
    assert response.status_code == status
    assert "was stopped" in json.loads(response.text.splitlines()[-1])["error"]


async def test_a_client_that_leaves_ends_the_wait_alone(cold, monkeypatch):
    monkeypatch.setattr(load_requests, "PROGRESS_S", 0.01)
    cold.control.on_load = None
    with pytest.raises(httpx.ReadTimeout):
        await cold.client.post("/api/pull", json={"model": MODEL, "stream": False}, timeout=0.1)
    async with asyncio.timeout(10):
        while cold.gateway.loader.waiting:
            await asyncio.sleep(0.01)


async def test_a_stream_that_waits_for_a_load_says_nothing_yet(cold, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.02)
    async with ollama.AsyncClient(host=f"http://127.0.0.1:{cold.port}") as client:
        parts = [part async for part in await client.chat(MODEL, [USER], stream=True)]
    assert "".join(part.message.content for part in parts) == TEXT
    assert parts[0].message.content == ""
