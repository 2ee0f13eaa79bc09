"""Weights that a load computes, in files that later loads map."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuron.device.memory import MIB
from neuron.models.architecture import decoder_class
from neuron.models.checkpoint import CONFIG, WEIGHTS, Checkpoint, ModelLoadError, OpenFiles
from neuron.models.in_situ import IN_SITU
from neuron.models.in_situ.checkpoint import in_situ
from neuron.models.mapped_file import mapping_of
from neuron.models.matrix import Matrix
from neuron.models.packed.checkpoint import PackedEntry, packed
from neuron.models.packed.folder import PackedFolder
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import StoredWeight
from neuron.models.tensor_parallel.checkpoint import split_checkpoint
from neuron.models.tensor_parallel.sizes import Rank
from neuron.worker.model_pool import ModelPool, WorkerSettings
from neuron.worker.resident_model import ResidentModel
from tests.device.quantized import quantize
from tests.device.serving import prompt, texts
from tests.device.test_quantized_checkpoints import CASES
from tests.device.zoo import save

PROMPTS = {number: prompt(number, length) for number, length in enumerate((3, 21))}
WIDE = {"hidden_size": 256, "intermediate_size": 512}


def ignore(_: float) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> PackedFolder:
    return PackedFolder(tmp_path / "packed", 64 * MIB)


def opened(path: Path, quant: str | None = None, rank: Rank | None = None) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if rank:
        checkpoint, _ = split_checkpoint(checkpoint, rank, quant)
    return in_situ(checkpoint, quant, decoder_class) if quant else checkpoint


def weights(checkpoint: Checkpoint) -> dict[str, StoredWeight]:
    with ExitStack() as exits:
        files = OpenFiles(exits)
        read = {name: entry.read(files) for name, entry in checkpoint.tensors.items()}
    return {name: weight for name, weight in read.items() if isinstance(weight, StoredWeight)}


def parts(matrix: Matrix) -> list[torch.Tensor]:
    return [part for part in (*matrix.blocks, matrix.factor, matrix.input_order) if part is not None]


def kind(weight: StoredWeight) -> tuple[Any, ...]:
    matrix = weight.matrix
    return matrix.format, matrix.in_features, weight.dtype, weight.shape, weight.is_transposed, matrix.shape


def files_of(folder: PackedFolder) -> list[Path]:
    return sorted(folder.path.glob("*.packed"))


def file_of(checkpoint: Checkpoint, folder: PackedFolder) -> Path:
    """The file of a model that is quantized as q8_0, which is made if need be."""
    entries = packed(checkpoint, folder, "q8_0", None, ignore).tensors.values()
    (file,) = {entry.file for entry in entries if isinstance(entry, PackedEntry)}
    return file


def check_packed(checkpoint: Checkpoint, folder: PackedFolder, quant: str | None, rank: Rank | None) -> None:
    """Packed weights must be the computed ones to the last bit, and be mapped."""
    computed = weights(checkpoint)
    kept = packed(checkpoint, folder, quant, rank, ignore)
    found = weights(kept)
    assert found.keys() == computed.keys() != set()
    for name, weight in found.items():
        assert kind(weight) == kind(computed[name])
        for ours, theirs in zip(parts(weight.matrix), parts(computed[name].matrix), strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)  # noqa: PT018
        assert all(map(mapping_of, weight.matrix.blocks)), name
    sizes = {name: entry.loaded_bytes(2) for name, entry in checkpoint.tensors.items()}
    assert {name: entry.loaded_bytes(2) for name, entry in kept.tensors.items()} == sizes


@pytest.mark.parametrize("quant", IN_SITU)
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "qwen3_moe"])
def test_weights_that_are_quantized_in_situ_are_those_of_the_file(
    family: str, quant: str, tmp_path: Path, folder: PackedFolder
):
    check_packed(opened(save(tmp_path / "model", family, **WIDE), quant), folder, quant, None)


@pytest.mark.parametrize("case", CASES)
def test_weights_that_are_arranged_anew_are_those_of_the_file(
    case: str, tmp_path: Path, folder: PackedFolder
):
    config, method = CASES[case]
    stored, _ = quantize(save(tmp_path / "model", **WIDE), tmp_path, config, method)
    check_packed(opened(stored), folder, None, None)


@pytest.mark.parametrize("quant", ["q8_0", "fp8"])
def test_each_rank_has_a_file_of_its_own(quant: str, tmp_path: Path, folder: PackedFolder):
    path = save(tmp_path / "model", **WIDE)
    for index in (0, 1):
        check_packed(opened(path, quant, Rank(index, 2)), folder, quant, Rank(index, 2))
    assert len(files_of(folder)) == len(folder.known_files(path, quant)) == 2


def test_a_model_is_packed_by_its_first_load_and_mapped_by_the_next(tmp_path: Path, folder: PackedFolder):
    path = save(tmp_path / "model", **WIDE)
    first = packed(opened(path, "q8_0"), folder, "q8_0", None, ignore)
    (file,) = files_of(folder)
    number = file.stat().st_ino
    os.utime(file, (1, 1))
    again = packed(opened(path, "q8_0"), folder, "q8_0", None, ignore)
    assert files_of(folder) == [file]
    assert (file.stat().st_ino, file.stat().st_mtime) == (number, 1)
    assert file.stat().st_atime > 1  # it was used
    assert again == first
    assert packed(opened(path), folder, None, None, ignore).tensors == opened(path).tensors


def test_a_copy_of_a_model_shares_its_file_and_a_changed_one_does_not(tmp_path: Path, folder: PackedFolder):
    path = save(tmp_path / "model", **WIDE)
    packed(opened(path, "q8_0"), folder, "q8_0", None, ignore)
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    packed(opened(copy, "q8_0"), folder, "q8_0", None, ignore)
    assert len(files_of(folder)) == 1
    found = copy.joinpath(WEIGHTS).stat()
    tensors = load_file(copy / WEIGHTS)
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file(tensors | {name: tensors[name] * 2}, copy / WEIGHTS)
    os.utime(copy / WEIGHTS, ns=(found.st_atime_ns, found.st_mtime_ns))  # as some tools copy
    assert folder.known_files(path, "q8_0") == files_of(folder)
    assert folder.known_files(copy, "q8_0") == folder.known_files(path, "q4_k") == []
    changed = packed(opened(copy, "q8_0"), folder, "q8_0", None, ignore)
    assert len(files_of(folder)) == 2
    torch.testing.assert_close(weights(changed)[name].dequantize(), tensors[name] * 2, rtol=0.05, atol=0.05)
    settings = json.loads((copy / CONFIG).read_text())
    (copy / CONFIG).write_text(json.dumps(settings | {"rope_theta": 5e5}))
    packed(opened(copy, "q8_0"), folder, "q8_0", None, ignore)
    assert len(files_of(folder)) == 3


@pytest.mark.parametrize("damage", ["cut", "emptied", "other"])
def test_a_damaged_file_is_made_again(
    damage: str, tmp_path: Path, folder: PackedFolder, caplog: pytest.LogCaptureFixture
):
    checkpoint = opened(save(tmp_path / "model", **WIDE), "q8_0")
    first = packed(checkpoint, folder, "q8_0", None, ignore)
    wanted = weights(first)
    (file,) = files_of(folder)
    data = file.read_bytes()
    changed = {"cut": data[:-100], "emptied": b"", "other": data[:-30] + b"}" * 14 + data[-16:]}
    file.unlink()
    file.write_bytes(changed[damage])
    again = packed(checkpoint, folder, "q8_0", None, ignore)
    assert "is damaged" in caplog.text
    assert file.read_bytes() == data
    assert weights(again).keys() == wanted.keys()


def test_what_was_used_longest_ago_makes_room(tmp_path: Path, folder: PackedFolder):
    old, kept, new = (
        opened(save(tmp_path / name, **WIDE, rope_theta=float(ord(name))), "q8_0") for name in "abc"
    )
    gone = file_of(old, folder)
    stays = file_of(kept, folder)
    os.utime(gone, ns=(1, gone.stat().st_mtime_ns))
    room = PackedFolder(folder.path, gone.stat().st_size * 5 // 2)
    made = file_of(new, room)
    assert files_of(folder) == sorted([stays, made])


def test_a_folder_without_room_is_said_and_the_model_loads(
    tmp_path: Path, folder: PackedFolder, caplog: pytest.LogCaptureFixture
):
    checkpoint = opened(save(tmp_path / "model", **WIDE), "q8_0")
    assert packed(checkpoint, PackedFolder(folder.path, 1), "q8_0", None, ignore) is checkpoint
    assert "are more than packed_mb" in caplog.text
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert packed(checkpoint, PackedFolder(in_the_way, MIB), "q8_0", None, ignore) is checkpoint
    assert files_of(folder) == []


def test_a_load_that_fails_leaves_no_file(tmp_path: Path, folder: PackedFolder):
    path = save(tmp_path / "model", **WIDE)
    tensors = load_file(path / WEIGHTS)
    tensors["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(tensors, path / WEIGHTS)
    with pytest.raises(ModelLoadError, match=r"q_proj.weight holds values that are not finite"):
        packed(opened(path, "q8_0"), folder, "q8_0", None, ignore)
    assert not [file for file in folder.path.iterdir() if file.suffix != ".digest"]


def test_what_a_killed_process_left_is_deleted(tmp_path: Path, folder: PackedFolder):
    folder.path.mkdir()
    old, new = folder.path / "old.part", folder.path / "new.part"
    for draft in (old, new):
        draft.touch()
    os.utime(old, (1, 1))
    packed(opened(save(tmp_path / "model", **WIDE), "q8_0"), folder, "q8_0", None, ignore)
    assert not old.exists()
    assert new.exists()


def test_a_worker_answers_alike_from_a_packed_file(tmp_path: Path, folder: PackedFolder):
    path = save(tmp_path / "model", **WIDE)
    reports: list[float] = []

    def load(**settings: Any) -> ResidentModel:
        models = ModelPool(torch.device("cpu"), WorkerSettings(kv_mb=1, **settings))
        return models.load("m", path, reports.append, quant="q8_0")

    plain = load()
    packing = load(packed=folder)
    mapping = load(packed=folder)
    wanted, *others = (texts(each.loaded.module, PROMPTS) for each in (plain, packing, mapping))
    assert others == [wanted, wanted]
    assert mapping.loaded.stored == plain.loaded.stored
    assert max(reports) == 1
    (file,) = files_of(folder)
    assert file in {mapped.path for mapped in mapping.loaded.files}
