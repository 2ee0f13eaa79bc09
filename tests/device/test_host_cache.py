"""Models that fall asleep and wake, in the pool of one device."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import pytest
import torch

from neuron.device.host_copies import HostCopies
from neuron.device.memory import MIB, bytes_in_use
from neuron.models.checkpoint import WEIGHTS, ModelLoadError
from neuron.pipe import Finished, Loaded, Refused, Tokens, Unload, Unloaded
from neuron.worker.host_cache import HostCache
from neuron.worker.loaded_model import LoadedModel
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.daemon import Daemon
from tests.device.serving import decoder, prompt, texts
from tests.device.zoo import save

CPU = torch.device("cpu")


def ignore(_: float) -> None:
    pass


def sized(num_bytes: int) -> LoadedModel:
    return LoadedModel(Path("/models/any"), None, None, num_bytes, ("f32", 32.0), ())  # type: ignore[arg-type]


def sleep(pool: ModelPool, model: str = "m", priority: int = 0) -> bool:
    resident = pool.unload(model)
    assert resident
    return pool.asleep.put(model, resident.loaded, priority)


# --- what is kept -------------------------------------------------------------------------------------------


def test_those_of_the_lowest_priority_go_first_and_then_those_that_sleep_longest():
    cache = HostCache(30)
    for model, priority in (("old", 1), ("low", 0), ("new", 1)):
        assert cache.put(model, sized(10), priority)
    assert cache.put("next", sized(10), 1)
    assert cache.take_dropped() == ["low"]
    assert cache.put("last", sized(20), 1)
    assert cache.take_dropped() == ["old", "new"]
    assert cache.used == 30
    assert cache.take_dropped() == []


def test_a_model_that_counts_less_than_all_others_does_not_displace_them():
    cache = HostCache(20)
    assert cache.put("high", sized(15), 5)
    assert not cache.put("low", sized(10), 1)
    assert not cache.put("huge", sized(21), 9)
    assert "high" in cache
    assert cache.take_dropped() == []


def test_without_room_nothing_falls_asleep(llama: Path):
    models = ModelPool(CPU, WorkerSettings(host_cache_mb=0))
    models.load("m", llama, ignore)
    assert not sleep(models)


# --- a model wakes ------------------------------------------------------------------------------------------


def test_a_woken_model_has_its_weights_and_fresh_pages(llama: Path):
    models = ModelPool(CPU, WorkerSettings(kv_mb=4))
    before = models.load("m", llama, ignore)
    assert sleep(models)
    assert not models.models
    woken = models.load("m", llama, ignore)
    assert woken.loaded is before.loaded
    assert woken.runner is not before.runner
    assert woken.scheduler is not before.scheduler
    assert "m" not in models.asleep


def test_sleeping_models_take_nothing_that_others_need(llama: Path, tmp_path: Path):
    other = save(tmp_path, hidden_size=256, num_hidden_layers=4)
    needed = ModelPool(CPU, WorkerSettings(kv_mb=4)).load("o", other, ignore).needed_mb
    budget = bytes_in_use(CPU) // MIB + needed + 8
    models = ModelPool(CPU, WorkerSettings(memory_mb=budget, kv_mb=4))
    models.load("m", llama, ignore)
    free = models.free
    assert sleep(models)
    assert models.free > free
    models.load("o", other, ignore)
    assert models.asleep.used <= models.free


@pytest.mark.parametrize("change", [{"quant": "q8_0"}, {"kv_dtype": "int8"}])
def test_a_model_that_is_asked_for_otherwise_is_loaded_anew(change: dict[str, str], llama: Path):
    models = ModelPool(CPU, WorkerSettings(kv_mb=4))
    before = models.load("m", llama, ignore)
    assert sleep(models)
    assert models.load("m", llama, ignore, **change).loaded is not before.loaded  # type: ignore[arg-type]
    assert "m" not in models.asleep


def test_files_that_changed_meanwhile_are_read_again(tmp_path: Path):
    path = save(tmp_path)
    models = ModelPool(CPU, WorkerSettings(kv_mb=4))
    before = weakref.ref(models.load("m", path, ignore).loaded.module)
    assert sleep(models)
    os.utime(path / WEIGHTS, ns=(0, 1))
    models.load("m", path, ignore)
    assert before() is None


def test_a_failed_reload_forgets_what_was_asleep(tmp_path: Path):
    path = save(tmp_path)
    models = ModelPool(CPU, WorkerSettings(kv_mb=4))
    models.load("m", path, ignore)
    assert sleep(models)
    (path / WEIGHTS).write_bytes(b"")
    with pytest.raises(ModelLoadError, match="is not a safetensors file"):
        models.load("m", path, ignore)
    assert "m" not in models.asleep


# --- over the pipe ------------------------------------------------------------------------------------------


def answer(daemon: Daemon, number: int) -> list[int]:
    daemon.submit(number, prompt(3, 20), 8)
    assert isinstance(daemon.end(number), Finished)
    return daemon.text(number)


def test_a_worker_says_what_sleeps_and_answers_as_before_when_it_wakes(llama: Path):
    with Daemon() as daemon:
        daemon.load(llama)
        before = answer(daemon, 1)
        daemon.submit(2, prompt(1, 20), 200)
        daemon.wait_for(Tokens, lambda message: message.id == 2)
        daemon.send(Unload("m", keep=True))
        assert (daemon.wait_for(Unloaded).host_mb or 0) > 0
        assert isinstance(daemon.end(2), Refused)
        daemon.submit(3, [5], 1)
        assert daemon.end(3).code == "model_unloaded"  # type: ignore[union-attr]
        loaded = daemon.load(llama)
        assert isinstance(loaded, Loaded)
        assert loaded.was_asleep
        assert answer(daemon, 4) == before
        daemon.send(Unload("m"))
        assert daemon.wait_for(Unloaded).host_mb is None


# --- tensors that leave a device ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "qwen3_moe"])
def test_whatever_holds_tensors_has_their_numbers_again(family: str, tmp_path: Path):
    """As beside a GPU: here the device is the CPU, with weights of another dtype than the file's."""
    loaded = decoder(save(tmp_path, family), "bfloat16", fused=False)
    expected = texts(loaded, {0: prompt(1, 20)})
    weights = list(loaded._model.parameters())  # type: ignore[union-attr]
    copies = HostCopies(loaded, "cpu")
    assert {weight.untyped_storage().nbytes() for weight in weights} == {0}
    copies.move_back()
    assert texts(loaded, {0: prompt(1, 20)}) == expected
