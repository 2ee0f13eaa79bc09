"""Files that will soon be needed are read into the page cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from neuron.models.checkpoint import read_header
from neuron.read_ahead import read_ahead
from tests.neuron.conftest import config, neuron_with
from tests.stubs.model_dir import write_model


def files(folder: Path, *names: str, size: int = 1000) -> None:
    for name in names:
        (folder / name).write_bytes(b"x" * size)


def test_all_weights_of_a_directory_are_asked_for(tmp_path: Path):
    files(tmp_path, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "other.bin")
    assert read_ahead(tmp_path) == 2000


def test_all_parts_of_a_gguf_file_are_asked_for(tmp_path: Path):
    files(tmp_path, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n.gguf")
    assert read_ahead(tmp_path / "m-00001-of-00002.gguf") == 2000
    assert read_ahead(tmp_path / "n.gguf") == 1000


def test_large_files_are_read_as_far_as_half_of_the_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files(tmp_path, "a.safetensors", "b.safetensors", size=3000)
    available = type("Memory", (), {"available": 8000})()
    monkeypatch.setattr("neuron.read_ahead.psutil.virtual_memory", lambda: available)
    assert read_ahead(tmp_path) == 4000


def test_tensors_are_read_in_the_order_in_which_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weight = np.zeros((8, 8), np.float32)
    names = "lm_head", "model.embed_tokens", "model.layers.10.mlp", "model.layers.2.mlp"
    tensors = {f"{name}.weight": weight for name in names} | {"model.layers.10.norm.weight": weight[0]}
    save_file(tensors, tmp_path / "model.safetensors")
    starts = {entry.start: name for name, entry in read_header(tmp_path / "model.safetensors").items()}
    asked: list[int] = []
    monkeypatch.setattr("neuron.read_ahead.READERS", 1)
    monkeypatch.setattr("neuron.read_ahead.os.posix_fadvise", lambda _, start, *__: asked.append(start))
    assert read_ahead(tmp_path) == (tmp_path / "model.safetensors").stat().st_size
    assert [starts.get(start, "header").removesuffix(".weight") for start in asked] == [
        "header",
        "model.layers.10.norm",
        "model.embed_tokens",
        "model.layers.2.mlp",
        "model.layers.10.mlp",
        "lm_head",
    ]


@pytest.mark.parametrize("path", ["nothing", "nothing.gguf", "empty"])
def test_what_is_not_there_is_left_to_the_load(path: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert read_ahead(tmp_path / path) == 0


async def test_a_neuron_reads_ahead_and_loads_nothing(tmp_path: Path):
    directory = write_model(tmp_path / "m")
    async with neuron_with(config()) as neuron:
        spec = {"model_id": "m", "source": str(directory)}
        answer = await neuron.http.post("/models/read-ahead", json=spec)
        assert answer.json() == {"status": "reading", "model_id": "m"}
        assert await neuron.models() == {}


@pytest.mark.parametrize(
    ("spec", "status", "code"),
    [
        ({"model_id": "nowhere"}, 404, "model_not_found"),
        ({"model_id": "m", "harness": "steam"}, 400, "unknown_harness"),
        ({}, 400, "invalid_request_body"),
    ],
)
async def test_bad_wishes_are_refused(spec: dict[str, str], status: int, code: str):
    async with neuron_with(config()) as neuron:
        answer = await neuron.http.post("/models/read-ahead", json=spec)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
