"""Models on several devices, as the daemon sees them: the workers are stand-ins."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.neuron.conftest import config, neuron_with, until
from tests.stubs.model_dir import write_model


async def model(neuron, model_id="m"):
    return (await neuron.models())[model_id]


async def devices(neuron):
    return (await neuron.http.get("/health")).json()["devices"]


async def is_loaded(neuron):
    return (await model(neuron))["state"] == "loaded"


def open_groups():
    links = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    return sum("memfd:neuron" in str(entry.readlink()) for entry in links)


async def test_a_model_is_loaded_on_several_devices_and_shown_on_each(model_dir):
    async with neuron_with(config(), devices=3) as neuron:
        assert (await neuron.load(model_dir, tensor_parallel=2, devices=[2, 0])).status_code == 200
        shown = await model(neuron)
        assert shown["devices"] == [0, 2]
        assert (shown["memory_mb"], shown["device_memory_mb"], shown["needed_mb"]) == (200, [100, 100], 120)
        assert (await neuron.chat("echo hi")).json()["choices"][0]["message"]["content"] == "hi"
        loads = [device["cycles"] for device in await devices(neuron)]
        assert loads == [1, 0, 1]
        unloaded = await neuron.http.post("/models/unload", json={"model_id": "m"})
        assert unloaded.status_code == 200
        assert [device["cycles"] for device in await devices(neuron)] == [2, 0, 2]
        assert open_groups() == 0


UNFIT = [
    ({"tensor_parallel": 4}, "tensor_parallel"),
    ({"tensor_parallel": 2, "devices": [0]}, "devices"),
    ({"tensor_parallel": 2, "devices": [1, 1]}, "devices"),
    ({"tensor_parallel": 1, "devices": [0, 1]}, "devices"),
    ({"devices": [0, 7]}, "devices"),
    ({"devices": []}, "devices"),
    ({"tensor_parallel": 0}, "tensor_parallel"),
]


async def test_devices_that_do_not_fit_are_refused(model_dir):
    async with neuron_with(config(), devices=2) as neuron:
        for spec, param in UNFIT:
            answer = await neuron.load(model_dir, **spec)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param), (spec, error)
        assert await neuron.models() == {}


async def test_groups_that_share_a_device_share_their_first(model_dir, tmp_path):
    async with neuron_with(config(), devices=3) as neuron:
        assert (await neuron.load(model_dir, devices=[1, 2])).status_code == 200
        refused = await neuron.load(model_dir, "crossing", devices=[0, 1])
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "device_busy")
        assert (await neuron.load(model_dir, "beside", tensor_parallel=2)).status_code == 200
        assert (await neuron.load(model_dir, "alone", devices=[0])).status_code == 200
        assert (await model(neuron, "beside"))["devices"] == [1, 2]


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_rank_that_dies_takes_the_group_and_nothing_else(rank, model_dir, tmp_path):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        await neuron.load(write_model(tmp_path / "alone"), "alone", devices=[1 - rank])
        before = [device["pid"] for device in await devices(neuron)]
        asked = asyncio.create_task(neuron.chat("wait"))
        await until(neuron.running)
        os.kill(before[rank], signal.SIGKILL)
        answer = await asked
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        await until(lambda: is_loaded(neuron))
        after = [device["pid"] for device in await devices(neuron)]
        assert [old == new for old, new in zip(before, after, strict=True)] == [rank != 0, rank != 1]
        assert (await neuron.chat("echo again")).json()["choices"][0]["message"]["content"] == "again"
        assert (await model(neuron, "alone"))["state"] == "loaded"
        assert open_groups() == 3  # its memory, mapped, and the file that ranks find each other by


async def test_a_group_that_is_over_is_loaded_again_by_the_same_workers(model_dir):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        before = [(device["pid"], device["cycles"]) for device in await devices(neuron)]
        assert (await neuron.chat("lose")).status_code == 503
        await until(lambda: is_loaded(neuron))
        after = await devices(neuron)
        assert [device["pid"] for device in after] == [pid for pid, _ in before]
        assert all(device["cycles"] > cycles for device, (_, cycles) in zip(after, before, strict=True))
        assert (await neuron.chat("echo hi")).status_code == 200


@pytest.mark.parametrize("wish", [{"fail": "insufficient_memory"}, {"die": True}])
@pytest.mark.parametrize("rank", [0, 1])
async def test_a_part_that_cannot_be_loaded_leaves_none(wish, rank, tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "load.json").write_text(json.dumps(wish | {"rank": rank}))
    async with neuron_with(config(), devices=2) as neuron:
        failed = await neuron.load(directory, tensor_parallel=2)
        assert failed.status_code == 503
        assert failed.json()["error"]["code"] == wish.get("fail", "worker_lost")
        assert (await model(neuron))["state"] == "failed"
        assert open_groups() == 0
        (directory / "load.json").unlink()
        assert (await neuron.load(directory, tensor_parallel=2)).status_code == 200
        assert (await neuron.chat("echo hi")).status_code == 200


async def test_a_group_falls_asleep_and_wakes_on_all_its_devices(model_dir):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        await neuron.http.post("/models/unload", json={"model_id": "m", "keep": "host"})
        shown = await model(neuron)
        assert (shown["state"], shown["host_mb"], shown["devices"]) == ("asleep", 80, [0, 1])
        assert (await neuron.load(model_dir, tensor_parallel=2)).status_code == 200
        assert (await neuron.chat("echo hi")).status_code == 200


async def test_a_sleeping_group_is_gone_with_one_of_its_workers(model_dir):
    async with neuron_with(config(), devices=2) as neuron:
        await neuron.load(model_dir, tensor_parallel=2)
        await neuron.http.post("/models/unload", json={"model_id": "m", "keep": "host"})
        os.kill((await devices(neuron))[1]["pid"], signal.SIGKILL)

        async def is_gone():
            return "m" not in await neuron.models()

        await until(is_gone)
