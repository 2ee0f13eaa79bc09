from __future__ import annotations

import asyncio
import json

import pytest

from neuron.harness import HARNESSES
from tests.neuron.conftest import config, events_of, neuron_with, until
from tests.stubs.model_dir import write_model


async def test_load_is_idempotent_and_unload_forgets(model_dir):
    async with neuron_with(config()) as neuron:
        assert await neuron.models() == {}
        for _ in range(2):
            answer = await neuron.load(model_dir)
            assert (answer.status_code, answer.json()) == (200, {"status": "loaded", "model_id": "m"})
        model = (await neuron.models())["m"]
        assert model["state"] == "loaded"
        assert (model["memory_mb"], model["context"], model["devices"]) == (100, 4096, [0])
        assert model["capabilities"] == ["chat", "tools", "reasoning"]
        assert (await neuron.device())["cycles"] == 1
        answer = await neuron.http.post("/models/unload", json={"model_id": "m"})
        assert (answer.status_code, answer.json()["status"]) == (200, "unloaded")
        assert await neuron.models() == {}
        again = await neuron.http.post("/models/unload", json={"model_id": "m"})
        assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")
        assert (await neuron.device())["cycles"] == 2


async def test_loads_at_the_same_time_are_one(tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "gate").touch()
    async with neuron_with(config()) as neuron:
        loads = [asyncio.create_task(neuron.load(directory)) for _ in range(3)]
        await until(lambda: loading(neuron))
        waiting = await neuron.chat("echo hi")
        assert (waiting.status_code, waiting.json()["error"]["code"]) == (503, "model_loading")
        assert waiting.headers["retry-after"]
        (directory / "gate").unlink()
        assert [answer.status_code for answer in await asyncio.gather(*loads)] == [200, 200, 200]
        assert (await neuron.device())["cycles"] == 1


async def loading(neuron):
    return (await neuron.models()).get("m", {}).get("state") == "loading"


async def test_a_load_goes_on_when_its_client_goes_away(tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "gate").touch()
    async with neuron_with(config()) as neuron:
        load = asyncio.create_task(neuron.load(directory))
        await until(lambda: loading(neuron))
        load.cancel()
        await asyncio.wait([load])
        (directory / "gate").unlink()
        await until(lambda: loaded(neuron))


async def loaded(neuron):
    return (await neuron.models()).get("m", {}).get("state") == "loaded"


async def test_unload_while_loading(tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "gate").touch()
    async with neuron_with(config()) as neuron:
        load = asyncio.create_task(neuron.load(directory))
        await until(lambda: loading(neuron))
        await until(neuron.device)
        unload = asyncio.create_task(neuron.http.post("/models/unload", json={"model_id": "m"}))
        (directory / "gate").unlink()
        assert (await unload).status_code == 200
        answer = await load
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_unloaded")
        assert await neuron.models() == {}
        assert (await neuron.load(directory)).status_code == 200


async def test_unload_ends_running_requests(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        whole = asyncio.create_task(neuron.chat("wait"))
        async with neuron.http.stream("POST", "/v1/chat/completions", json=forever()) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            await until(neuron.running)
            assert (await neuron.http.post("/models/unload", json={"model_id": "m"})).status_code == 200
            *_, last = events_of("\n".join([line async for line in lines]))
        assert last["error"]["code"] == "model_unloaded"
        assert ((await whole).status_code, (await whole).json()["error"]["code"]) == (503, "model_unloaded")


def forever():
    return {"model": "m", "messages": [{"role": "user", "content": "forever"}], "stream": True}


@pytest.mark.parametrize(
    ("spec", "status", "code", "param"),
    [
        ({}, 400, "invalid_request_body", "model_id"),
        ({"model_id": ""}, 400, "invalid_request_body", "model_id"),
        ({"model_id": "m", "devices": "all"}, 400, "invalid_request_body", "devices"),
        ({"model_id": "m", "devices": [7]}, 400, "unknown_device", "devices"),
        ({"model_id": "m", "devices": [0, 1]}, 400, "unsupported_parameter", "devices"),
        ({"model_id": "m", "quant": "q4"}, 400, "unsupported_parameter", "quant"),
        ({"model_id": "m", "harness": "candle"}, 400, "unknown_harness", "harness"),
        ({"model_id": "m", "source": "/does/not/exist"}, 404, "model_not_found", "source"),
        ({"model_id": "unheard-of"}, 404, "model_not_found", "source"),
    ],
)
async def test_a_wrong_load_is_refused(shared, spec, status, code, param):
    answer = await shared.http.post("/models/load", json=spec)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["message"]


@pytest.fixture
async def shared():
    async with neuron_with(config(), devices=2) as neuron:
        yield neuron


async def test_unknown_harnesses_are_answered_with_the_known(shared):
    answer = await shared.http.post("/models/load", json={"model_id": "m", "harness": "candle"})
    assert "torch" in answer.json()["error"]["message"]
    assert (await shared.http.get("/discovery")).json()["harnesses"] == sorted(HARNESSES)


async def test_malformed_json_and_unknown_bodies(shared):
    for path in ("/models/load", "/models/unload"):
        answer = await shared.http.post(path, content=b"{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")
    answer = await shared.http.post("/models/unload", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model_id")


async def test_models_go_to_the_device_that_was_named_or_is_freest(shared, tmp_path):
    await shared.load(write_model(tmp_path / "a"), "a", devices=[1])
    await until(lambda: memory_is(shared, [1000, 900]))
    await shared.load(write_model(tmp_path / "b"), "b")
    models = await shared.models()
    assert (models["a"]["devices"], models["b"]["devices"]) == ([1], [0])
    assert [device["worker"] for device in (await shared.http.get("/health")).json()["devices"]] == [
        "cpu-dev-0",
        "cpu-dev-1",
    ]


async def memory_is(neuron, expected):
    devices = (await neuron.http.get("/health")).json()["devices"]
    return [device["memory_free_mb"] for device in devices] == expected


async def test_another_source_under_a_loaded_name_is_a_conflict(shared, tmp_path):
    await shared.load(write_model(tmp_path / "a"), "a")
    answer = await shared.load(write_model(tmp_path / "b"), "a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_exists")


@pytest.mark.parametrize(
    ("code", "status"), [("model_broken", 422), ("model_unsupported", 422), ("insufficient_memory", 503)]
)
async def test_a_load_that_fails_leaves_its_reason_and_can_be_repeated(shared, tmp_path, code, status):
    directory = write_model(tmp_path / "m")
    (directory / "load.json").write_text(json.dumps({"fail": code}))
    answer = await shared.load(directory)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    model = (await shared.models())["m"]
    assert (model["state"], model["error"]["code"]) == ("failed", code)
    assert str(directory) in model["error"]["message"]
    assert (await shared.chat("hi")).status_code == 404
    (directory / "load.json").unlink()
    assert (await shared.load(directory)).status_code == 200
    assert (await shared.models())["m"]["error"] is None


async def test_a_broken_tokenizer_is_named(shared, tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "tokenizer.json").write_text("{}")
    answer = await shared.load(directory)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_broken")
    assert "tokenizer.json" in answer.json()["error"]["message"]
    assert (await shared.http.post("/models/unload", json={"model_id": "m"})).status_code == 200


async def test_ids_with_slashes_have_an_endpoint(shared, model_dir):
    await shared.load(model_dir, "org/name")
    answer = await shared.http.get("/models/org/name/endpoint")
    assert answer.json() == {"url": "http://127.0.0.1:13131"}
    missing = await shared.http.get("/models/nope/endpoint")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_models_of_the_configuration_are_loaded_and_failures_stay_visible(tmp_path):
    write_model(tmp_path / "named")
    models = [{"id": "bad", "source": str(tmp_path / "nowhere")}, {"id": "named"}]
    async with neuron_with(config(models_dir=tmp_path, models=models)) as neuron:
        await until(lambda: is_loaded(neuron, "named"))
        found = await neuron.models()
        assert (found["bad"]["state"], found["bad"]["error"]["code"]) == ("failed", "model_not_found")
        assert found["named"]["source"] == "named"


async def is_loaded(neuron, model_id):
    return (await neuron.models()).get(model_id, {}).get("state") == "loaded"
