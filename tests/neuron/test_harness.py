"""A second harness beside the one that ships: the registry drives both by name."""

from __future__ import annotations

from contextlib import asynccontextmanager

from tests.neuron.conftest import config, neuron_with
from tests.stubs.fake_harness import FakeHarness


@asynccontextmanager
async def two_harnesses(**settings):
    """A neuron with a second harness, and that one."""
    made = []

    def make(context):
        made.append(FakeHarness(context))
        return made[-1]

    async with neuron_with(config(**settings), others=[make]) as neuron:
        yield neuron, made[0]
    assert not made[0].is_running


async def load(neuron, model_id, source="somewhere"):
    spec = {"model_id": model_id, "source": source, "harness": "fake"}
    return await neuron.http.post("/models/load", json=spec)


async def test_models_of_both_harnesses_are_listed_with_their_load(model_dir):
    async with two_harnesses() as (neuron, fake):
        assert fake.is_running
        assert (await neuron.http.get("/discovery")).json()["harnesses"] == ["fake", "torch"]
        assert (await neuron.load(model_dir)).status_code == 200
        assert (await load(neuron, "other")).status_code == 200
        models = await neuron.models()
        assert {name: model["harness"] for name, model in models.items()} == {"m": "torch", "other": "fake"}
        health = (await neuron.http.get("/health")).json()
        assert [device["index"] for device in health["devices"]] == [0]
        assert {"id": "other", "running": 3}.items() <= health["models"][-1].items()


async def test_a_model_served_elsewhere_is_found_at_its_endpoint_and_refused_here():
    async with two_harnesses() as (neuron, _):
        await load(neuron, "m")
        endpoint = (await neuron.http.get("/models/m/endpoint")).json()
        assert endpoint["url"] == "http://127.0.0.1:9/m"
        answer = await neuron.chat("echo hi")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        assert "http://127.0.0.1:9/m" in answer.json()["error"]["message"]


async def test_verbs_go_to_the_harness_that_runs_the_model():
    async with two_harnesses() as (neuron, fake):
        await load(neuron, "m")
        assert (await neuron.http.post("/models/reset", json={"model_id": "m"})).status_code == 200
        assert fake.reset == ["m"]
        leave = {"grace_s": 5, "force": False}
        answer = await neuron.http.post("/models/unload", json={"model_id": "m"} | leave)
        assert answer.status_code == 200
        assert (fake.left["m"].grace_s, fake.left["m"].force) == (5, False)
        assert await neuron.models() == {}


async def test_a_drain_unloads_the_models_of_both_harnesses(model_dir):
    async with two_harnesses() as (neuron, fake):
        await neuron.load(model_dir)
        await load(neuron, "other")
        answer = await neuron.http.post("/devices/0/drain", json={"grace_s": 7})
        assert (answer.status_code, answer.json()) == (200, {"status": "drained", "index": 0})
        assert await neuron.models() == {}
        assert fake.left["other"].grace_s == 7


async def test_a_restart_goes_to_the_harness_that_keeps_the_device(model_dir):
    async with two_harnesses() as (neuron, _):
        await neuron.load(model_dir)
        await load(neuron, "other")
        before = (await neuron.device())["pid"]
        assert (await neuron.http.post("/devices/0/restart", json={})).status_code == 200
        assert (await neuron.device())["pid"] != before
        assert set(await neuron.models()) == {"m", "other"}


async def test_errors_of_a_harness_and_unknown_harnesses_are_answered():
    async with two_harnesses() as (neuron, _):
        answer = await load(neuron, "m", source="missing")
        assert (answer.status_code, answer.json()["error"]["param"]) == (404, "source")
        answer = await neuron.http.post("/models/load", json={"model_id": "m", "harness": "candle"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_harness", "harness")
        assert "fake, torch" in error["message"]


async def test_the_configuration_names_a_models_harness():
    models = [{"id": "m", "source": "somewhere", "harness": "fake"}]
    async with two_harnesses(models=models) as (neuron, _):
        assert (await neuron.models())["m"]["harness"] == "fake"
