"""Refusals of the node's operations, and the placement of models, on one neuron with two devices."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from tests.neuron.conftest import config, neuron_with, until
from tests.stubs.model_dir import write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair():
    async with neuron_with(config(), devices=2) as neuron:
        yield neuron


@pytest_asyncio.fixture(loop_scope="module")
async def shared(pair):
    """The module's neuron, without models."""
    yield pair
    for model_id in await pair.models():
        await pair.http.post("/models/unload", json={"model_id": model_id})
    await until(lambda: memory_is(pair, [1000, 1000]))


@pytest.mark.parametrize(
    ("spec", "status", "code", "param"),
    [
        ({}, 400, "invalid_request_body", "model_id"),
        ({"model_id": ""}, 400, "invalid_request_body", "model_id"),
        ({"model_id": "m", "devices": "all"}, 400, "invalid_request_body", "devices"),
        ({"model_id": "m", "devices": [7]}, 400, "unknown_device", "devices"),
        ({"model_id": "m", "devices": [0, 1], "tensor_parallel": 1}, 400, "unsupported_parameter", "devices"),
        ({"model_id": "helexa-tiny", "quant": "q4"}, 400, "unknown_quant", "quant"),
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


async def test_refusal_of_an_unknown_harness_names_the_known_ones(shared):
    answer = await shared.http.post("/models/load", json={"model_id": "m", "harness": "candle"})
    known = (await shared.http.get("/discovery")).json()["harnesses"]
    assert "torch" in known
    assert all(name in answer.json()["error"]["message"] for name in known)


async def test_malformed_json_and_incomplete_bodies_are_refused(shared):
    for path in ("/models/load", "/models/unload"):
        answer = await shared.http.post(path, content=b"{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed_json")
    answer = await shared.http.post("/models/unload", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model_id")


async def test_model_goes_to_the_named_or_the_freest_device(shared, tmp_path):
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


async def test_a_model_says_how_its_weights_are_stored(shared, model_dir):
    await shared.load(model_dir, "plain")
    await shared.load(model_dir, "small", quant="Q4_K")
    models = await shared.models()
    assert [models["plain"][key] for key in ("format", "bits_per_weight")] == ["f32", 32.0]
    assert [models["small"][key] for key in ("format", "bits_per_weight")] == ["q4_k", 4.5]


async def test_another_quant_under_a_loaded_name_is_a_conflict(shared, model_dir):
    await shared.load(model_dir, "m", quant="q8_0")
    assert (await shared.load(model_dir, "m", quant="Q8_0")).status_code == 200
    assert (await shared.load(model_dir, "m")).status_code == 200
    for quant in ("q4_k", "none"):
        answer = await shared.load(model_dir, "m", quant=quant)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (409, "model_exists", "quant")


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


async def test_unload_continues_when_its_client_disconnects(shared, model_dir):
    await shared.load(model_dir)
    asker = asyncio.create_task(shared.daemon.registry.unload("m"))
    await asyncio.sleep(0)  # it has begun
    await asyncio.sleep(0)
    asker.cancel()
    await until(lambda: is_gone(shared, "m"))
    assert (await shared.load(model_dir)).status_code == 200


async def is_gone(neuron, model_id):
    return model_id not in await neuron.models()


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
