"""What is copied through the ring of buffers is what was there, whatever its size; here without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuron.models.mapped_file import map_file
from neuron.models.stored_weight import StoredWeight, moved
from neuron.models.upload import UploadRing
from tests.device.random_weights import stored_matrix

CPU = torch.device("cpu")


@pytest.mark.parametrize("readers", [1, 3])
def test_tensors_of_all_sizes_are_copied(readers: int):
    generator = torch.Generator().manual_seed(0)
    sizes = [(), (0,), (1,), (5, 7), (64,), (1000, 3)]
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    tensors += [tensors[-1].t(), tensors[-1].bfloat16()[1:]]
    with UploadRing(CPU, readers=readers, buffer_bytes=64) as ring:
        copies = [ring.copy(tensor) for tensor in tensors]
    for copied, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copied, tensor)
        assert copied.dtype is tensor.dtype


def test_a_mapped_file_is_copied(tmp_path: Path):
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 100)
    with UploadRing(CPU, readers=2, buffer_bytes=1000) as ring:
        assert bytes(ring.copy(map_file(file)).tolist()) == file.read_bytes()


def test_stored_weights_are_copied_as_they_are():
    weight = StoredWeight(stored_matrix("q4_k", 16, 512), torch.float32)
    with UploadRing(CPU, buffer_bytes=100) as ring:
        copied = moved(weight, ring.copy)
    for one, other in zip(copied.matrix.blocks, weight.matrix.blocks, strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def test_what_cannot_be_read_fails_the_copy(monkeypatch: pytest.MonkeyPatch):
    def fail(self: Tensor, source: Tensor, *_: object, **__: object) -> Tensor:
        raise OSError("no more")

    with UploadRing(CPU, readers=2, buffer_bytes=64) as ring:
        monkeypatch.setattr(torch.Tensor, "copy_", fail)
        with pytest.raises(OSError, match="no more"):
            ring.copy(torch.ones(1000))
        monkeypatch.undo()
        assert torch.equal(ring.copy(torch.ones(1000)), torch.ones(1000))
