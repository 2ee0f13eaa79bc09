"""Managed engines: servers that a neuron starts, watches and stops, here a stand-in for each of them."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from functools import partial

import psutil
import pytest
import pytest_asyncio

from neuron.managed.installed import installed
from tests.neuron.conftest import config, events_of, neuron_with, until

LIKE = ["vllm", "sglang", "llama-server"]
pytestmark = pytest.mark.asyncio(loop_scope="module")
QUICK = {"first_delay_s": 0.05, "max_delay_s": 0.1, "max_reloads": 2}


def stand_in(like):
    return [sys.executable, "-m", "tests.stubs.stand_in_engine", like]


def model_of(folder, like, **behaviour):
    """A model for the stand-in; its path."""
    folder.mkdir(exist_ok=True)
    (folder / "engine.json").write_text(json.dumps(behaviour))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    (folder / "model.gguf").write_bytes(b"GGUF")
    return folder / "model.gguf" if like == "llama-server" else folder


def seen(folder, what="start"):
    lines = (folder / "engine.log").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["what"] == what]


@asynccontextmanager
async def managed(kind="cpu", devices=1, restart=QUICK, keepalive_s=10.0, **settings):
    """A neuron that has the stand-ins for all engines; at its end no process of theirs is left."""
    engines = {like: {"command": stand_in(like), "stop_grace_s": 1, **settings} for like in LIKE}
    settings = config(engines=engines, restart=restart, stream={"keepalive_s": keepalive_s})
    before = set(psutil.Process().children(recursive=True))
    async with neuron_with(settings, devices, others=installed(settings), kind=kind) as neuron:
        yield neuron
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared():
    async with managed(options=["more"], arguments=["--seen"], environment={"MINE": "1"}) as neuron:
        yield neuron


@pytest_asyncio.fixture(loop_scope="module")
async def neuron(shared):
    """A neuron without models, which others have used and will use."""
    yield shared
    for model in await shared.models():
        await shared.http.post("/models/unload", json={"model_id": model})


def load(neuron, path, like="vllm", **spec):
    return neuron.load(path, harness=like, **spec)


async def state(neuron):
    return (await neuron.models()).get("m", {"state": "gone"})["state"]


async def is_in(neuron, *states):
    return await state(neuron) in states


@pytest.mark.parametrize("like", LIKE)
async def test_an_engine_is_started_asked_and_ended(neuron, like, tmp_path):
    assert (await neuron.http.get("/discovery")).json()["harnesses"] == sorted([*LIKE, "torch"])
    path = model_of(tmp_path / "model", like)
    answer = await load(neuron, path, like, options={"more": 3})
    assert answer.status_code == 200, answer.text
    model = (await neuron.models())["m"]
    assert (model["harness"], model["state"], model["context"]) == (like, "loaded", 512)
    assert model["memory_mb"] > 0
    assert model["device_memory_mb"] == [model["memory_mb"]]
    answer = (await neuron.chat("hello", unheard_of=1)).json()
    assert answer["choices"][0]["message"]["content"] == "hello"
    events = await neuron.stream("one two")
    words = [event["choices"][0]["delta"].get("content") for event in events[:-2]]
    assert (words, events[-1]) == (["one", "two", None], "[DONE]")
    start = seen(tmp_path / "model")[0]
    assert start["argv"][-3:] == ["--more", "3", "--seen"]
    assert psutil.pid_exists(start["pid"])
    log = (await neuron.http.get("/models/m/log")).json()["lines"]
    assert log[-1] == "The server is fired up and ready to roll!"
    used = (await neuron.device())["memory_used_mb"]
    unload = await neuron.http.post("/models/unload", json={"model_id": "m"})
    assert unload.status_code == 200
    assert await state(neuron) == "gone"
    assert not psutil.pid_exists(start["pid"])
    assert (await neuron.device())["memory_used_mb"] == used - model["memory_mb"]


async def test_neither_secrets_of_the_node_nor_ports_reach_others(neuron, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURON_SECRET", "s")
    assert (await load(neuron, model_of(tmp_path / "model", "vllm"))).status_code == 200
    start = seen(tmp_path / "model")[0]
    assert (start["names"], start["argv"][-1]) == ([], "--seen")
    sockets = psutil.Process(start["pid"]).net_connections()
    assert [one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN] == ["127.0.0.1"]


async def test_errors_of_a_server_keep_their_status_and_get_an_envelope(neuron, tmp_path):
    await load(neuron, model_of(tmp_path / "model", "vllm"))
    for text, code in (("flat", "engine_error"), ("refuse", 400)):
        answer = await neuron.chat(text)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    answer = await neuron.http.post("/v1/nothing", json={"model": "m"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = await neuron.http.post("/v1/chat/completions", json={"messages": []})
    assert answer.json()["error"]["code"] == "missing_model_field"


async def test_compressed_bodies_reach_a_server_plain(neuron, tmp_path):
    await load(neuron, model_of(tmp_path / "model", "vllm"))
    body = {"model": "m", "messages": [{"role": "user", "content": "packed"}]}
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    content = gzip.compress(json.dumps(body).encode())
    answer = await neuron.http.post("/v1/chat/completions", content=content, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "packed"


async def test_a_server_that_ends_within_an_answer_is_an_error_and_is_started_again(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm")
    await load(neuron, path)
    events = await neuron.stream("one die-now")
    assert events[0]["choices"][0]["delta"]["content"] == "one"
    assert events[-1]["error"]["code"] == "worker_lost"
    await until(lambda: is_in(neuron, "loading"))
    answer = await neuron.chat("hi")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    await until(lambda: is_in(neuron, "loaded"))
    assert (await neuron.chat("hi")).status_code == 200
    answer = await neuron.chat("die")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
    await until(partial(has_started, path, 3))
    await until(lambda: is_in(neuron, "loaded"))


async def test_a_server_whose_guard_is_killed_is_replaced_with_all_that_it_started(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm", children=1)
    await load(neuron, path)
    guard = psutil.Process(seen(path)[0]["pid"]).parent()
    family = guard.children(recursive=True)
    assert seen(path, "child")[0]["pid"] in {one.pid for one in family}
    guard.kill()
    await until(partial(has_started, path, 2))
    await until(lambda: is_in(neuron, "loaded"))
    assert not any(is_alive(one) for one in family)


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def has_started(path, times):
    return len(seen(path)) == times


async def test_a_server_that_ends_again_and_again_fails(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm", crash=9)
    assert (await load(neuron, path)).status_code == 200
    await until(lambda: is_in(neuron, "failed"))
    error = (await neuron.models())["m"]["error"]
    assert (error["code"], "exit code 9" in error["message"]) == ("engine_failed", True)
    assert len(seen(path)) == 3
    (path / "engine.json").write_text("{}")
    assert (await load(neuron, path)).status_code == 200


async def test_a_server_that_does_not_answer_any_more_is_replaced(tmp_path):
    async with managed(restart=QUICK | {"wedged_after_s": 0.4}) as neuron:
        path = model_of(tmp_path / "model", "vllm")
        await load(neuron, path)
        await neuron.chat("wedge")
        await until(lambda: is_in(neuron, "loading"))
        await until(lambda: is_in(neuron, "loaded"))
        assert len(seen(path)) == 2


@pytest.mark.parametrize("like", LIKE)
@pytest.mark.parametrize(
    ("start", "status", "code"),
    [("oom", 503, "insufficient_memory"), ("unsupported", 422, "model_unsupported")],
)
async def test_a_load_fails_with_the_reason_in_the_servers_log(neuron, like, start, status, code, tmp_path):
    answer = await load(neuron, model_of(tmp_path / "model", like, start=start), like)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    model = (await neuron.models())["m"]
    assert (model["state"], model["error"]["code"], model["memory_mb"]) == ("failed", code, None)
    assert (await neuron.http.get("/models/m/log")).json()["lines"]


@pytest.mark.parametrize(("start", "code"), [("killed", "insufficient_memory"), ("exit", "engine_failed")])
async def test_a_load_fails_by_the_servers_end(neuron, start, code, tmp_path):
    answer = await load(neuron, model_of(tmp_path / "model", "vllm", start=start))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)


async def test_a_load_fails_by_the_servers_silence(tmp_path):
    async with managed(restart=QUICK | {"load_silence_s": 2}) as neuron:
        for start, code in (("hang", "insufficient_memory"), ("slow", "load_timeout")):
            answer = await load(neuron, model_of(tmp_path / start, "vllm", start=start), model_id=start)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)


async def test_a_slow_start_shows_its_progress_and_can_be_ended(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm", start="slow")
    loading = asyncio.create_task(load(neuron, path))
    await until(lambda: is_in(neuron, "loading"))
    await until(partial(has_progress, neuron))
    await neuron.http.post("/models/unload", json={"model_id": "m"})
    assert (await loading).json()["error"]["code"] == "model_unloaded"
    (path / "go").touch()
    assert (await load(neuron, path)).status_code == 200


async def has_progress(neuron):
    return (await neuron.models())["m"]["progress"] == 0.5


async def test_a_port_that_another_program_took_is_exchanged(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm", start="taken")
    assert (await load(neuron, path)).status_code == 200
    assert len(seen(path)) == 2


async def test_a_client_that_goes_ends_its_request_at_the_server(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm")
    await load(neuron, path)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "forever"}]}
    async with neuron.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        chunks = answer.aiter_bytes()
        await anext(chunks)
        assert await neuron.running() == 1
    await until(partial(is_gone, path))
    await until(partial(is_idle, neuron))


async def is_gone(path):
    return seen(path, "gone")


async def is_idle(neuron):
    return await neuron.running() == 0


async def test_requests_are_bounded_and_have_a_time_to_end(tmp_path):
    async with managed(max_requests=1) as neuron:
        await load(neuron, model_of(tmp_path / "model", "vllm"))
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "forever"}]}
        async with neuron.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            chunks = answer.aiter_bytes()
            await anext(chunks)
            more = await neuron.chat("hi")
            assert (more.status_code, more.json()["error"]["code"]) == (503, "queue_full")
            leave = {"model_id": "m", "grace_s": 0.05, "force": False}
            stays = await neuron.http.post("/models/unload", json=leave)
            assert (stays.status_code, await state(neuron)) == (409, "loaded")
            assert (await neuron.http.post("/models/unload", json={"model_id": "m"})).status_code == 200
            rest = b"".join([chunk async for chunk in chunks])
            assert events_of(rest.decode())[-1]["error"]["code"] == "worker_lost"


async def test_a_silent_stream_gets_comments(tmp_path):
    async with managed(keepalive_s=0.05) as neuron:
        await load(neuron, model_of(tmp_path / "model", "vllm"))
        answer = await neuron.chat("one pause two", stream=True)
        assert ": keep-alive" in answer.text
        assert events_of(answer.text)[-1] == "[DONE]"


@pytest.mark.parametrize("like", ["vllm", "sglang"])
async def test_a_server_sleeps_and_wakes_instead_of_ending(like, tmp_path):
    leave = {"model_id": "m", "keep": "host"}
    async with managed(kind="cuda") as neuron:
        path = model_of(tmp_path / "model", like)
        await load(neuron, path, like)
        assert seen(path)[0]["cuda"] == "0"
        assert (await neuron.http.post("/models/unload", json=leave)).status_code == 200
        model = (await neuron.models())["m"]
        assert (model["state"], model["memory_mb"]) == ("asleep", None)
        assert (await neuron.chat("hi")).status_code == 404
        assert (await load(neuron, path, like)).status_code == 200
        assert (await neuron.chat("hi")).status_code == 200
        assert len(seen(path)) == len(seen(path, "asleep")) == len(seen(path, "awake")) == 1
        await neuron.http.post("/models/unload", json=leave)
        other = model_of(tmp_path / "other", like)
        await neuron.load(other, "other", harness=like)
        await neuron.http.post("/models/unload", json=leave | {"model_id": "other"})
        assert {name: one["state"] for name, one in (await neuron.models()).items()} == {"other": "asleep"}
        os.kill(seen(other)[0]["pid"], signal.SIGKILL)
        await until(partial(has_no_model, neuron))


async def has_no_model(neuron):
    return await neuron.models() == {}


async def test_a_model_on_several_devices_is_told_of_them(tmp_path):
    async with managed(kind="cuda", devices=3) as neuron:
        path = model_of(tmp_path / "model", "vllm")
        wrong = await load(neuron, path, devices=[0, 1], tensor_parallel=3)
        assert wrong.json()["error"]["param"] == "devices"
        answer = await load(neuron, path, devices=[2, 1], tensor_parallel=2, memory_mb=250)
        assert answer.status_code == 200
        start = seen(path)[0]
        assert start["cuda"] == "1,2"
        arguments = " ".join(start["argv"])
        assert "--tensor-parallel-size 2 --gpu-memory-utilization 0.2500" in arguments
        assert (await neuron.models())["m"]["devices"] == [1, 2]


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ({"options": {"trust-remote-code": True}}, "options.trust-remote-code"),
        ({"options": {"dtype": "--trust-remote-code"}}, "options.dtype"),
        ({"model_id": "--trust-remote-code"}, "model_id"),
        ({"quant": "--trust-remote-code"}, "quant"),
        ({"devices": [4]}, "devices"),
        ({"memory_mb": 5000}, "memory_mb"),
    ],
)
async def test_specs_that_cannot_be_followed_are_refused(neuron, spec, param, tmp_path):
    body = {
        "model_id": "m",
        "source": str(model_of(tmp_path / "model", "vllm")),
        "harness": "vllm",
    } | spec
    answer = await neuron.http.post("/models/load", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not (tmp_path / "model" / "engine.log").exists()


async def test_a_directory_without_gguf_is_not_for_llama_server(neuron, tmp_path):
    path = model_of(tmp_path / "model", "vllm")
    (path / "model.gguf").unlink()
    answer = await load(neuron, path, "llama-server")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "model_unsupported")
