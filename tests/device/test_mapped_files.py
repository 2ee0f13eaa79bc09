"""Weights on a CPU are the file's own pages: what that costs, and what happens to the file underneath."""

from __future__ import annotations

import gc
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ext import compiled
from neuron.models.checkpoint import CONFIG, WEIGHTS, ModelLoadError, OpenFiles, read_directory
from neuron.models.mapped_file import map_file, still_mapped
from neuron.pipe import Finished, Loaded, Refused
from neuron.worker.model_pool import ModelPool, WorkerSettings
from tests.device.daemon import Daemon
from tests.device.serving import prompt
from tests.device.zoo import save

needs_guard = pytest.mark.skipif(compiled("guard") is None, reason="no compiler was there")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 16))
    return path


def mappings(path: Path) -> int:
    return sum(line.endswith(str(path)) for line in Path("/proc/self/maps").read_text().splitlines())


def mapped_bytes(path: Path, kind: str) -> int:
    """What a file's mappings take of memory, as /proc/self/smaps counts it."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(maxsplit=1)[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and line.startswith(f"{kind}:"):
            total += int(line.split()[1]) << 10
    return total


def test_a_mapping_ends_with_the_last_tensor_that_views_it(file: Path):
    data = map_file(file)
    assert data.numpy().tobytes() == file.read_bytes()
    part = data[100:200].view(torch.float32)
    del data
    assert mappings(file) == 1
    del part
    assert mappings(file) == 0
    assert still_mapped([file]) == []


def test_a_tensor_that_is_written_to_leaves_the_file_alone(file: Path):
    before = file.read_bytes()
    data = map_file(file)
    data += 1
    assert file.read_bytes() == before
    assert [mapped.damage() for mapped in still_mapped([file])] == [None]


@pytest.mark.parametrize("shift", [0, 1])  # a header may have any length
def test_tensors_of_every_type_are_read_wherever_they_start(shift: int, tmp_path: Path):
    dtypes = [torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.float8_e4m3fn]
    tensors = {str(dtype): torch.randn(3, 5).to(dtype) for dtype in dtypes} | {"none": torch.zeros(0, 4)}
    raw = safetensors.torch.save(tensors)
    end = 8 + int.from_bytes(raw[:8], "little")
    length = (end - 8 + shift).to_bytes(8, "little")
    (tmp_path / WEIGHTS).write_bytes(length + raw[8:end] + b" " * shift + raw[end:])
    (tmp_path / CONFIG).write_text('{"model_type": "llama"}')
    with ExitStack() as exits:
        files = OpenFiles(exits)
        found = {name: entry.read(files) for name, entry in read_directory(tmp_path).tensors.items()}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))


def cut(path: Path) -> None:
    os.truncate(path, 0)


def write(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"\xff" * 64)
    os.utime(path, ns=(1, 1))  # whatever the clock's steps are


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"something else")
    other.rename(path)


@needs_guard
def test_a_file_cut_short_reads_as_zeros_and_is_known_to_be_damaged(file: Path):
    data = map_file(file)
    cut(file)
    assert int(data.sum()) == 0
    (mapped,) = still_mapped([file])
    assert "cut short" in str(mapped.damage())


def test_a_file_that_is_written_to_is_known_to_be_damaged(file: Path):
    data = map_file(file)
    write(file)
    (mapped,) = still_mapped([file])
    assert "was written to" in str(mapped.damage())
    assert len(data) == 1 << 16


def test_a_file_that_is_replaced_stays_as_it_was(file: Path):
    before = file.read_bytes()
    data = map_file(file)
    replace(file)
    assert data.numpy().tobytes() == before
    assert [mapped.damage() for mapped in still_mapped([file])] == [None]


def loaded(path: Path, models: ModelPool, name: str = "m") -> Any:
    return models.load(name, path, lambda _: None)


def test_an_unload_unmaps_the_files_of_a_model(tmp_path: Path):
    path = save(tmp_path)
    models = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    resident = loaded(path, models)
    assert [mapped.path for mapped in resident.loaded.files] == [path / WEIGHTS]
    assert mappings(path / WEIGHTS) == 1
    models.unload("m")
    del resident
    gc.collect()
    assert mappings(path / WEIGHTS) == 0


def test_two_models_of_one_file_share_its_memory(tmp_path: Path):
    file = save(tmp_path) / WEIGHTS
    models = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    for name in ("one", "two"):
        loaded(tmp_path, models, name)
    assert mappings(file) == 2
    assert mapped_bytes(file, "Anonymous") == 0  # no page is a copy
    # Half, but for pages that one alone was given: the kernel maps a page's neighbours as it finds them.
    assert mapped_bytes(file, "Pss") <= mapped_bytes(file, "Rss") * 3 // 4


def test_pages_that_were_quantized_take_no_memory(tmp_path: Path):
    file = save(tmp_path, hidden_size=256, intermediate_size=1024) / WEIGHTS
    models = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    models.load("m", tmp_path, lambda _: None, quant="q8_0")
    assert mapped_bytes(file, "Rss") < file.stat().st_size / 4


def test_a_file_that_changes_while_it_is_loaded_is_a_failed_load(tmp_path: Path):
    path = save(tmp_path)
    models = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1))
    with pytest.raises(ModelLoadError, match=r"was written to while it was loaded") as raised:
        models.load("m", path, lambda fraction: write(path / WEIGHTS) if fraction == 1 else None)
    assert raised.value.code == "model_broken"
    assert models.models == {}


@needs_guard
def test_a_worker_outlives_the_loss_of_a_model_s_file(tmp_path: Path):
    lost, whole = save(tmp_path / "lost"), save(tmp_path / "whole")
    with Daemon("--kv-mb", "1") as daemon:
        for name, path in (("lost", lost), ("whole", whole)):
            assert isinstance(daemon.load(path, name), Loaded)
        daemon.submit(1, prompt(1, 5), model="whole")
        text = daemon.text(1)
        cut(lost / WEIGHTS)
        daemon.submit(2, prompt(1, 5), model="lost")
        refused = daemon.end(2)
        assert isinstance(refused, Refused)
        assert str(lost / WEIGHTS) in refused.message
        assert "unload the model" in refused.message
        daemon.submit(3, prompt(1, 5), model="whole")
        assert daemon.text(3) == text
        assert isinstance(daemon.end(3), Finished)
