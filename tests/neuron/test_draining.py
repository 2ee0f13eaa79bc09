"""Unloads, drains and restarts while requests are under way, with a grace or by force."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from tests.neuron.conftest import config, neuron_with, until
from tests.neuron.test_models import forever
from tests.stubs.model_dir import write_model


@asynccontextmanager
async def request_under_way(neuron):
    """A stream that ends when its client disconnects."""
    async with neuron.http.stream("POST", "/v1/chat/completions", json=forever()) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        await until(neuron.running)
        yield
        await lines.aclose()


def unload(neuron, **leave):
    return asyncio.create_task(neuron.http.post("/models/unload", json={"model_id": "m", **leave}))


def restart(neuron, **leave):
    return asyncio.create_task(neuron.http.post("/devices/0/restart", json=leave))


def code(answer):
    return answer.status_code, answer.json()["error"]["code"]


async def state(neuron):
    return (await neuron.models()).get("m", {}).get("state")


async def state_is(neuron, wanted):
    return await state(neuron) == wanted


async def test_unload_waits_for_requests_under_way_and_admits_no_new_ones(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        async with request_under_way(neuron):
            leaving = unload(neuron, grace_s=60, force=False)
            await until(lambda: state_is(neuron, "unloading"))
            assert code(await neuron.chat("echo late")) == (404, "model_not_found")
            assert not leaving.done()
        assert (await leaving).status_code == 200
        assert await neuron.models() == {}


async def test_busy_model_stays_unless_its_unload_is_forced(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        waiting = asyncio.create_task(neuron.chat("wait"))
        await until(neuron.running)
        assert code(await unload(neuron, grace_s=0.1, force=False)) == (409, "model_busy")
        assert await state(neuron) == "loaded"
        assert (await neuron.chat("echo still here")).status_code == 200
        patient = unload(neuron, grace_s=600, force=False)
        await until(lambda: state_is(neuron, "unloading"))
        assert (await unload(neuron)).status_code == 200  # who will not wait has the last word
        assert (await patient).status_code == 200
        assert code(await waiting) == (503, "model_unloaded")


async def test_restart_replaces_the_worker_and_loads_its_models_again(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        before = await neuron.device()
        async with request_under_way(neuron):
            replaced = restart(neuron, grace_s=60, force=False)
            await until(lambda: state_is(neuron, "loading"))
            assert code(await neuron.chat("echo late")) == (503, "model_loading")
            assert (await neuron.device())["pid"] == before["pid"]
        assert (await replaced).status_code == 200
        after = await neuron.device()
        assert after["pid"] != before["pid"]
        assert (after["state"], after["restarts"], after["reason"]) == ("ready", 1, "was restarted")
        assert await state(neuron) == "loaded"
        assert (await neuron.chat("echo back")).status_code == 200


async def test_busy_device_is_restarted_by_force_only(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        pid = (await neuron.device())["pid"]
        waiting = asyncio.create_task(neuron.chat("wait"))
        await until(neuron.running)
        assert code(await restart(neuron, force=False)) == (409, "model_busy")
        assert ((await neuron.device())["pid"], await state(neuron)) == (pid, "loaded")
        assert (await restart(neuron)).status_code == 200
        assert code(await waiting) == (503, "worker_lost")
        assert await state(neuron) == "loaded"


async def test_a_drained_device_has_no_model_and_a_fresh_worker_when_it_is_restarted(model_dir, tmp_path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await neuron.load(write_model(tmp_path / "other"), "other")
        pid = (await neuron.device())["pid"]
        async with request_under_way(neuron):
            drained = asyncio.create_task(
                neuron.http.post("/devices/0/drain", json={"grace_s": 60, "force": False})
            )
            await until(lambda: state_is(neuron, "unloading"))
            assert code(await neuron.chat("echo late")) == (404, "model_not_found")
            assert not drained.done()
        assert (await drained).status_code == 200
        assert await neuron.models() == {}
        assert (await restart(neuron)).status_code == 200
        device = await neuron.device()
        assert (device["state"], device["pid"] != pid, device["cycles"]) == ("ready", True, 0)
        assert await neuron.models() == {}


async def test_a_busy_model_stays_when_its_device_is_drained_without_force(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        waiting = asyncio.create_task(neuron.chat("wait"))
        await until(neuron.running)
        answer = await neuron.http.post("/devices/0/drain", json={"force": False})
        assert code(answer) == (409, "model_busy")
        assert await state(neuron) == "loaded"
        waiting.cancel()


async def test_unknown_devices_and_negative_graces_are_refused():
    async with neuron_with(config()) as neuron:
        for verb in ("drain", "restart"):
            assert code(await neuron.http.post(f"/devices/7/{verb}", json={})) == (404, "unknown_device")
        answer = await neuron.http.post("/devices/0/restart", json={"grace_s": -1})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "grace_s")
