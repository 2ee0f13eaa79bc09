"""Adapters are loaded over a model, answer under their own names, and go with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

from tests.neuron.conftest import config, neuron_with, until


def adapter_at(path: Path) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    return path


async def test_an_adapter_is_listed_and_answers_like_a_model(model_dir, tmp_path):
    tuned = adapter_at(tmp_path / "tuned")
    models = [
        {"id": "m", "source": str(model_dir)},
        {"id": "m:tuned", "source": str(tuned)},
    ]
    async with neuron_with(config(models=models)) as neuron:
        await until(lambda: are_loaded(neuron, 2))
        info = (await neuron.models())["m:tuned"]
        assert (info["state"], info["base"], info["context"]) == ("loaded", "m", 4096)
        assert info["capabilities"] == ["chat", "tools", "reasoning"]
        answer = await neuron.chat("echo hi", model="m:tuned")
        assert answer.json()["choices"][0]["message"]["content"] == "hi"
        assert answer.json()["model"] == "m:tuned"
        await neuron.http.post("/models/unload", json={"model_id": "m:tuned"})
        assert set(await neuron.models()) == {"m"}
        assert (await neuron.load(tuned, "m:tuned")).status_code == 200
        await neuron.http.post("/models/unload", json={"model_id": "m"})
        assert await neuron.models() == {}


async def test_an_adapter_needs_its_model_and_a_name_that_says_so(model_dir, tmp_path):
    tuned = adapter_at(tmp_path / "tuned")
    async with neuron_with(config()) as neuron:
        early = await neuron.load(tuned, "m:tuned")
        error = early.json()["error"]
        assert (early.status_code, error["code"], error["param"]) == (409, "base_not_loaded", "model_id")
        assert "load 'm' first" in error["message"]
        unnamed = await neuron.load(tuned, "tuned")
        assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (400, "unnamed_base")
        assert "name it BASE:NAME" in unnamed.json()["error"]["message"]
        await neuron.load(model_dir)
        quantized = await neuron.load(tuned, "m:tuned", quant="int4")
        assert (quantized.status_code, quantized.json()["error"]["param"]) == (400, "quant")
        assert (await neuron.load(tuned, "m:tuned")).status_code == 200
        over = await neuron.load(tuned, "m:tuned:more")
        assert over.json()["error"]["code"] == "base_not_loaded"


async def test_a_model_waits_for_the_requests_of_its_adapters(model_dir, tmp_path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await neuron.load(adapter_at(tmp_path / "tuned"), "m:tuned")
        answer = asyncio.create_task(neuron.chat("wait", model="m:tuned"))
        await until(lambda: neuron.running("m:tuned"))
        stays = await neuron.http.post("/models/unload", json={"model_id": "m", "force": False})
        assert (stays.status_code, stays.json()["error"]["code"]) == (409, "model_busy")
        assert "m:tuned" in stays.json()["error"]["message"]
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        assert {model["state"] for model in (await neuron.models()).values()} == {"loaded"}


async def test_a_new_worker_gets_the_adapters_again(model_dir, tmp_path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await neuron.load(adapter_at(tmp_path / "tuned"), "m:tuned")
        await neuron.chat("die", model="m:tuned")
        await until(lambda: are_loaded(neuron, 2))
        answer = await neuron.chat("echo again", model="m:tuned")
        assert answer.json()["choices"][0]["message"]["content"] == "again"


async def test_an_adapter_is_on_all_devices_of_its_model(model_dir, tmp_path):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        for name in ("one", "two"):
            assert (await neuron.load(adapter_at(tmp_path / name), f"m:{name}")).status_code == 200
        info = (await neuron.models())["m:one"]
        assert (info["devices"], len(info["device_memory_mb"])) == ([0, 1], 2)
        assert (await neuron.chat("lose", model="m")).status_code == 503
        await until(lambda: are_loaded(neuron, 3))
        answer = await neuron.chat("echo again", model="m:two")
        assert answer.json()["choices"][0]["message"]["content"] == "again"
        await neuron.http.post("/models/unload", json={"model_id": "m:one"})
        assert set(await neuron.models()) == {"m", "m:two"}
        assert (await neuron.chat("echo hi", model="m")).status_code == 200


async def test_a_lost_worker_of_a_group_takes_its_adapters_which_come_back(model_dir, tmp_path):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        await neuron.load(adapter_at(tmp_path / "tuned"), "m:tuned")
        devices = (await neuron.http.get("/health")).json()["devices"]
        for device in devices:
            os.kill(device["pid"], signal.SIGKILL)
        await until(lambda: are_replaced(neuron, devices))
        await until(lambda: are_loaded(neuron, 2))
        assert (await neuron.chat("echo hi", model="m:tuned")).status_code == 200


async def test_an_adapter_that_one_rank_cannot_load_is_on_none(model_dir, tmp_path):
    tuned = adapter_at(tmp_path / "tuned")
    (tuned / "load.json").write_text(json.dumps({"fail": "insufficient_memory", "device": 1}))
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        failed = await neuron.load(tuned, "m:tuned")
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "insufficient_memory")
        await until(lambda: have_one_model(neuron))
        (tuned / "load.json").unlink()
        assert (await neuron.load(tuned, "m:tuned")).status_code == 200


async def are_loaded(neuron, count: int) -> bool:
    return [model["state"] for model in (await neuron.models()).values()] == ["loaded"] * count


async def have_one_model(neuron) -> bool:
    devices = (await neuron.http.get("/health")).json()["devices"]
    return [device["memory_used_mb"] for device in devices] == [100, 100]


async def are_replaced(neuron, before) -> bool:
    after = (await neuron.http.get("/health")).json()["devices"]
    return all(one["pid"] not in (None, two["pid"]) for one, two in zip(after, before, strict=True))
