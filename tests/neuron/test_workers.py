from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys

import psutil

from neuron.config import NeuronConfig
from neuron.daemon import Daemon
from neuron.discovery import DiscoveredHost
from neuron.supervisor.torch_harness import TorchHarness
from tests.neuron.conftest import CPU, config, events_of, neuron_with, until
from tests.stubs.model_dir import write_model

WEDGE = {"first_delay_s": 0.05, "max_delay_s": 0.1, "wedged_after_s": 1.0}


async def recovered(neuron, restarts=1):
    device = await neuron.device()
    models = await neuron.models()
    return (
        device["restarts"] == restarts
        and device["state"] == "ready"
        and all(model["state"] == "loaded" for model in models.values())
    )


async def test_killed_worker_is_replaced_and_its_models_loaded_again(model_dir, tmp_path):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await neuron.load(write_model(tmp_path / "other"), "other")
        before = await neuron.device()
        os.kill(before["pid"], signal.SIGKILL)
        await until(lambda: recovered(neuron))
        after = await neuron.device()
        assert after["pid"] != before["pid"]
        assert after["reason"] == "killed by SIGKILL"
        assert (after["restarts"], after["cycles"]) == (1, 2)
        assert (await neuron.chat("echo again")).json()["choices"][0]["message"]["content"] == "again"
        assert set(await neuron.models()) == {"m", "other"}


async def test_models_of_a_lost_worker_are_loading(tmp_path):
    directory = write_model(tmp_path / "m")
    async with neuron_with(config()) as neuron:
        await neuron.load(directory)
        (directory / "gate").touch()
        os.kill((await neuron.device())["pid"], signal.SIGKILL)
        await until(lambda: has_state(neuron, "loading"))
        assert (await neuron.chat("echo hi")).status_code == 503
        load = asyncio.create_task(neuron.load(directory))  # joins the load that is under way
        (directory / "gate").unlink()
        assert (await load).status_code == 200
        assert (await neuron.chat("echo hi")).status_code == 200


async def has_state(neuron, state):
    return (await neuron.models())["m"]["state"] == state


async def test_worker_that_dies_before_the_first_token_is_a_503(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        for stream in (False, True):
            answer = await neuron.chat("die", stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
            assert answer.headers["retry-after"]
            await until(lambda: neuron_is_loaded(neuron))


async def neuron_is_loaded(neuron):
    return await has_state(neuron, "loaded") and (await neuron.device())["state"] == "ready"


async def test_worker_that_dies_within_a_stream_is_an_error_event(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        other = asyncio.create_task(neuron.chat("wait"))
        await until(neuron.running)
        *events, last = await neuron.stream("say-and-die half")
        text = "".join(event["choices"][0]["delta"]["content"] for event in events)
        assert text == "half"
        assert last["error"]["code"] == "worker_lost"
        assert "exit code 9" in last["error"]["message"]
        assert (await other).status_code == 503
        await until(lambda: recovered(neuron))


async def test_a_wedged_worker_is_replaced(model_dir):
    async with neuron_with(config(restart=WEDGE)) as neuron:
        await neuron.load(model_dir)
        answer = await neuron.chat("wedge")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        assert "no sign of life" in (await neuron.device())["reason"]
        await until(lambda: answers(neuron))
        assert (await neuron.device())["restarts"] >= 1


async def answers(neuron):
    return (await neuron.chat("echo hi")).status_code == 200


async def test_load_that_kills_its_worker_is_not_retried(model_dir, tmp_path):
    directory = write_model(tmp_path / "deadly")
    (directory / "load.json").write_text(json.dumps({"die": True}))
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        answer = await neuron.load(directory, "deadly")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        await until(lambda: neuron_is_loaded(neuron))
        assert (await neuron.models())["deadly"]["state"] == "failed"
        assert (await neuron.device())["restarts"] == 1


async def test_model_that_kills_every_new_worker_becomes_failed(tmp_path):
    directory = write_model(tmp_path / "m")
    async with neuron_with(config()) as neuron:
        await neuron.load(directory)
        (directory / "load.json").write_text(json.dumps({"die": True}))
        os.kill((await neuron.device())["pid"], signal.SIGKILL)
        await until(lambda: has_state(neuron, "failed"))
        await until(lambda: is_ready(neuron))
        assert (await neuron.device())["restarts"] == 1 + config().restart.max_reloads


async def is_ready(neuron):
    return (await neuron.device())["state"] == "ready"


async def test_device_whose_worker_never_starts_becomes_failed(model_dir):
    settings = config(restart={"first_delay_s": 0.01, "max_delay_s": 0.01, "start_timeout_s": 10})
    command = (sys.executable, "-c", "raise SystemExit(4)")
    host = DiscoveredHost([CPU])
    torch = functools.partial(TorchHarness, worker_command=command)
    daemon = Daemon(settings, host, url="", harnesses=[torch])
    async with daemon.running():
        await until(lambda: device_state(daemon, "failed"))
        health = daemon.health()
        assert health.status == "failed"
        assert health.devices[0].reason == "exit code 4"
        assert health.devices[0].restarts >= 2


async def device_state(daemon, state):
    return daemon.health().devices[0].state == state


async def test_stop_ends_running_answers_with_an_error(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        whole = asyncio.create_task(neuron.chat("wait"))
        stream = asyncio.create_task(neuron.stream("forever"))
        await until(lambda: both_run(neuron))
        neuron.daemon.stop()
        assert (await whole).status_code == 503
        *_, last = await stream
        assert "neuron is stopping" in last["error"]["message"]


async def both_run(neuron):
    return await neuron.running() == 2


async def test_stopped_daemon_leaves_no_process(model_dir):
    async with neuron_with(config(), devices=2) as neuron:
        await until(lambda: all_ready(neuron))
        pids = [device["pid"] for device in (await neuron.http.get("/health")).json()["devices"]]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def all_ready(neuron):
    return (await neuron.http.get("/health")).json()["status"] == "ok"


async def test_health_is_degraded_when_one_of_two_devices_fails(model_dir):
    settings = config(restart={"first_delay_s": 60})
    async with neuron_with(settings, devices=2) as neuron:
        await until(lambda: all_ready(neuron))
        await neuron.load(model_dir, devices=[1])
        os.kill((await neuron.device())["pid"], signal.SIGKILL)
        await until(lambda: is_degraded(neuron))
        assert (await neuron.chat("echo hi")).status_code == 200


async def is_degraded(neuron):
    return (await neuron.http.get("/health")).json()["status"] == "degraded"


async def test_given_settings_become_worker_flags():
    settings = NeuronConfig(device={"threads": 2, "memory_mb": 512}, engine={"max_running": 4})
    assert settings.worker_flags == ["--threads", "2", "--memory-mb", "512", "--max-running", "4"]
    assert NeuronConfig().worker_flags == []


async def test_health_counts_processes_and_memory(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        await until(lambda: memory_is_known(neuron))
        health = (await neuron.http.get("/health")).json()
        assert health["status"] == "ok"
        assert health["pid"] == os.getpid()
        assert health["rss_mb"] > 0
        assert health["devices"][0]["rss_mb"] > 0
        assert health["models"][0]["max_running"] == 8


async def memory_is_known(neuron):
    return (await neuron.device())["memory_used_mb"] == 100


async def test_failed_stream_has_no_done(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        answer = await neuron.chat("say-and-die x", stream=True)
        assert "[DONE]" not in events_of(answer.text)
