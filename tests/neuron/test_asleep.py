"""Models that fall asleep and wake, over a neuron's HTTP API."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.neuron.conftest import config, neuron_with, until
from tests.stubs.model_dir import write_model

FIELDS = ("state", "memory_mb", "host_mb", "load_s", "wake_s")


async def put_to_sleep(neuron, model_id: str = "m", **options) -> str:
    body = {"model_id": model_id, "keep": "host"} | options
    answer = await neuron.http.post("/models/unload", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["status"]


async def told(neuron, model_id: str = "m") -> list:
    model = (await neuron.models())[model_id]
    return [model[field] for field in FIELDS]


async def test_a_model_falls_asleep_and_wakes(model_dir: Path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        assert await told(neuron) == ["loaded", 100, None, 2.0, None]
        assert await put_to_sleep(neuron) == "asleep"
        assert await told(neuron) == ["asleep", None, 40, 2.0, None]
        refused = await neuron.chat("echo hi")
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert (await neuron.load(model_dir)).status_code == 200
        assert await told(neuron) == ["loaded", 100, None, 2.0, 0.1]
        assert (await neuron.chat("echo hi")).status_code == 200


async def test_its_text_is_not_read_again(tmp_path: Path):
    directory = write_model(tmp_path / "m")
    async with neuron_with(config()) as neuron:
        await neuron.load(directory)
        await put_to_sleep(neuron)
        template = neuron.daemon.registry.list()[0].text
        (directory / "tokenizer_config.json").unlink()
        assert (await neuron.load(directory)).status_code == 200
        assert neuron.daemon.registry.list()[0].text == template


async def test_unloading_wakes_nothing_and_forgets_it(model_dir: Path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await put_to_sleep(neuron)
        answer = await neuron.http.post("/models/unload", json={"model_id": "m"})
        assert answer.json()["status"] == "unloaded"
        assert await neuron.models() == {}


async def test_a_model_that_was_dropped_for_others_is_on_disk_again(model_dir: Path):
    async with neuron_with(config()) as neuron:
        for name in ("m", "other"):
            await neuron.load(model_dir, name)
            await put_to_sleep(neuron, name)
        assert set(await neuron.models()) == {"other"}


@pytest.mark.parametrize("change", [{"quant": "q8_0"}, {"kv_dtype": "int8"}, {"chat_template": "{{ 1 }}"}])
async def test_asked_for_otherwise_it_is_loaded_anew(change: dict[str, str], model_dir: Path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await put_to_sleep(neuron)
        assert (await neuron.load(model_dir, **change)).status_code == 200
        assert await told(neuron) == ["loaded", 100, None, 2.0, None]


async def test_on_another_device_it_is_loaded_anew(model_dir: Path):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, devices=[0])
        await put_to_sleep(neuron)
        assert (await neuron.load(model_dir, devices=[1])).status_code == 200
        model = (await neuron.models())["m"]
        assert (model["devices"], model["wake_s"]) == ([1], None)


async def test_a_worker_that_dies_takes_its_sleeping_models_with_it(model_dir: Path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await put_to_sleep(neuron)
        os.kill((await neuron.device())["pid"], signal.SIGKILL)
        await until(lambda: nothing_left(neuron))
        assert (await neuron.load(model_dir)).status_code == 200


async def nothing_left(neuron) -> bool:
    return await neuron.models() == {}


async def test_bad_wishes_are_400(model_dir: Path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        body = {"model_id": "m", "keep": "disk"}
        answer = await neuron.http.post("/models/unload", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keep")
        assert (await neuron.models())["m"]["state"] == "loaded"
