from __future__ import annotations

import asyncio

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


async def test_what_is_cached_as_is_chosen_for_each_model(model_dir):
    async with neuron_with(
        config(models=[{"id": "a", "source": str(model_dir), "kv_dtype": "int8"}])
    ) as neuron:
        await neuron.load(model_dir, "b", kv_dtype="fp8")
        await neuron.load(model_dir, "c")
        refused = await neuron.load(model_dir, "d", kv_dtype="fp6")
        shown = {name: model["kv_dtype"] for name, model in (await neuron.models()).items()}
    assert shown == {"a": "int8", "b": "fp8", "c": "bfloat16"}
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "kv_dtype")
    assert error["message"] == "kv_dtype: 'fp6' is none of auto, fp8, int8."


async def test_a_load_says_what_it_passes_over(model_dir):
    (model_dir / "adapter_config.json").write_text("{}")
    async with neuron_with(config()) as neuron:
        (warning,) = (await neuron.load(model_dir)).json()["warnings"]
        assert "adapter_config.json: the LoRA adapter beside the model is not applied; load it" in warning
        assert (await neuron.models())["m"]["warnings"] == [warning]


async def test_concurrent_loads_of_a_model_are_one_load(tmp_path):
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


async def test_load_continues_when_its_client_disconnects(tmp_path):
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


async def test_unload_while_loading_refuses_the_load(tmp_path):
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


async def test_configured_models_are_loaded_and_failures_stay_visible(tmp_path):
    write_model(tmp_path / "named")
    models = [{"id": "bad", "source": str(tmp_path / "nowhere")}, {"id": "named"}]
    async with neuron_with(config(models_dir=tmp_path, models=models)) as neuron:
        await until(lambda: is_loaded(neuron, "named"))
        found = await neuron.models()
        assert (found["bad"]["state"], found["bad"]["error"]["code"]) == ("failed", "model_not_found")
        assert found["named"]["source"] == "named"


async def is_loaded(neuron, model_id):
    return (await neuron.models()).get(model_id, {}).get("state") == "loaded"


async def test_the_notation_of_calls_can_be_configured(model_dir):
    said = 'echo [TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'
    tool = {"type": "function", "function": {"name": "f"}}
    async with neuron_with(config()) as neuron:
        refused = await neuron.load(model_dir, tool_format="morse")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_format")
        await neuron.load(model_dir, tool_format="mistral")
        choice = (await neuron.chat(said, tools=[tool])).json()["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["f"]
