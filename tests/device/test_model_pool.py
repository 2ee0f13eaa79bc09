from __future__ import annotations

import dataclasses
import gc
import re
import weakref
from math import prod
from pathlib import Path

import pytest
import torch

from neuron.device.memory import MIB, bytes_in_use
from neuron.models.checkpoint import ModelLoadError
from neuron.models.memory_estimate import estimate_memory
from neuron.models.reading import read_checkpoint
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.zoo import save

CPU = torch.device("cpu")


def pool(memory_mb: int | None = None, kv_mb: int | None = None) -> ModelPool:
    return ModelPool(CPU, WorkerSettings(memory_mb=memory_mb, kv_mb=kv_mb))


def ignore(_: float) -> None:
    pass


def test_weights_that_do_not_fit_are_refused_before_they_are_read(llama: Path):
    read: list[float] = []
    with pytest.raises(ModelLoadError) as raised:
        pool(memory_mb=1).load("m", llama, read.append)
    assert raised.value.code == "insufficient_memory"
    takes = r"it takes about \d+ MiB \(weights 1, cache at least 1, activations \d+\)"
    assert re.search(takes + ", but 0 MiB are free of the 1 MiB there are", raised.value.message)
    assert not read


def test_the_estimate_counts_weights_cache_and_activations(tmp_path: Path):
    path = save(tmp_path, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    checkpoint = read_checkpoint(path)
    found = estimate_memory(checkpoint, torch.float32, context=256, step_tokens=100, rows=8)
    config = checkpoint.config
    assert found.weights == sum(prod(entry.shape) for entry in checkpoint.tensors.values()) * 4
    assert found.cache == 256 * 3 * 2 * 2 * 16 * 4
    assert found.activations > 8 * config["vocab_size"] * 4 + 100 * config["intermediate_size"] * 4
    assert found.total == found.weights + found.cache + found.activations
    half = estimate_memory(checkpoint, torch.bfloat16, context=256, step_tokens=100, rows=8)
    assert 2 * half.weights == found.weights


def test_the_estimate_of_a_model_with_latents_counts_these(tmp_path: Path):
    path = save(tmp_path, "deepseek_v3")
    found = estimate_memory(read_checkpoint(path), torch.float32, context=256, step_tokens=100, rows=8)
    cache = pool(kv_mb=1).load("m", path, ignore).runner.cache
    tokens = (cache.shape.num_pages + 1) * cache.shape.page_size
    assert found.cache == 256 * cache.num_bytes // tokens


def test_an_estimate_of_an_unknown_configuration_counts_its_weights(tmp_path: Path):
    checkpoint = read_checkpoint(save(tmp_path))
    nameless = dataclasses.replace(checkpoint, config={"model_type": "other"})
    found = estimate_memory(nameless, torch.float32, context=256, step_tokens=100, rows=8)
    assert found.total == found.weights > 0


def test_a_failed_load_leaves_nothing_behind(llama: Path, tmp_path: Path):
    models = pool()
    with pytest.raises(ModelLoadError):
        models.load("m", tmp_path, ignore)
    assert models.models == {}
    assert models.free == models.budget - models.used
    models.load("m", llama, ignore)
    assert list(models.models) == ["m"]


def test_the_cache_is_sized_by_its_setting_and_bounds_the_context(llama: Path):
    # 3 layers of 2 heads of 16 floats, keys and values: 768 bytes a token, 12 KiB a page.
    resident = pool(kv_mb=1).load("m", llama, ignore)
    assert resident.runner.shape.num_pages == 84, "and one that is nobody's"
    assert resident.runner.shape.context == 512
    assert resident.runner.cache.num_bytes == 85 * 16 * 768
    assert resident.num_bytes >= resident.runner.cache.num_bytes


def test_needed_memory_does_not_grow_with_the_cache(llama: Path):
    small, large = (pool(kv_mb=size).load("m", llama, ignore) for size in (1, 40))
    assert large.memory_mb > 3 * small.memory_mb
    assert large.needed_mb <= 2 * small.needed_mb


def test_a_context_longer_than_the_cache_is_cut(tmp_path: Path):
    path = save(tmp_path, max_position_embeddings=100_000)
    resident = pool(kv_mb=2).load("m", path, ignore)
    assert resident.runner.shape.context == 169 * 16
    assert pool().load("m", path, ignore).runner.shape.context == 100_000


def test_models_share_one_budget(llama: Path, tmp_path: Path):
    """The second does not fit beside the first and is not read; it fits once the first is gone."""
    large = save(tmp_path, intermediate_size=20_000, num_hidden_layers=4)
    models = pool(kv_mb=30)
    needed = estimate_memory(
        read_checkpoint(large), torch.float32, context=256, step_tokens=512, rows=64
    ).total
    models.budget = models.used + needed + 8 * MIB  # less than the first takes
    models.load("first", llama, ignore)
    read: list[float] = []
    with pytest.raises(ModelLoadError, match=r"it takes about \d+ MiB \(weights") as raised:
        models.load("second", large, read.append)
    assert raised.value.code == "insufficient_memory"
    assert not read
    assert list(models.models) == ["first"]
    models.unload("first")
    models.release_unused()
    models.load("second", large, read.append)
    assert read[-1] == 1.0


def test_unloading_frees_the_memory(tmp_path: Path):
    path = save(tmp_path, intermediate_size=40_000, num_hidden_layers=4)
    models = pool()
    models.load("m", path, ignore, quant="q8_0")  # plain weights are the file's pages
    assert models.used - models._own_bytes > 30 * MIB
    before = bytes_in_use(CPU)
    assert models.unload("m") is not None
    models.release_unused()
    assert bytes_in_use(CPU) < before - 12 * MIB
    assert models.unload("m") is None


def test_a_loaded_model_is_exempt_from_collection_and_still_freed(tmp_path: Path):
    models = pool()
    models.load("m", save(tmp_path), ignore)
    try:
        assert gc.get_freeze_count() > len(gc.get_objects())
        decoder = weakref.ref(models.models["m"].runner)
        models.unload("m")
        models.release_unused()
        assert decoder() is None
    finally:
        gc.unfreeze()
