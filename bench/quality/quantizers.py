"""Ways to store a checkpoint's matrices: each turns one matrix of floats into blocks of its format."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from neuron.models.checkpoint import Checkpoint, OpenFiles, TensorEntry
from neuron.models.formats.block_type import BlockType
from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.stored_weight import StoredWeight

Quantizer = Callable[[Tensor], Matrix]  # of float32, (out, in)

# Their groups as checkpoints have them; 0 is a scale for every output.
SCALED_CODES = {"int8": 0, "int4": 128, "fp8": 0, "nf4": 64, "fp4": 64}
TERNARY = ("tq1_0", "tq2_0")  # for models that were trained so


def quantizers(library: Path | None) -> dict[str, Quantizer]:
    """A way to make each format, by its name; `library` is ggml's, without which some cannot be made."""
    blocks = {name: block for name, block in BLOCK_TYPES.items() if name not in TERNARY}
    if library is None:
        blocks = {name: block for name, block in blocks.items() if _has_package(name)}
        made: dict[str, Quantizer] = {name: partial(_by_package, block) for name, block in blocks.items()}
    else:
        quantize = _ggml(library)
        made = {name: partial(_by_library, quantize, block) for name, block in blocks.items()}
    return made | {name: partial(nearest_codes, name, group) for name, group in SCALED_CODES.items()}


def nearest_codes(name: str, group: int, weight: Tensor) -> Matrix:
    """A matrix of scaled codes, each the nearest to its weight; a group's largest weight sets the scale."""
    group = group if group and weight.shape[1] % group == 0 else weight.shape[1]
    form = ScaledCodes(name, group)
    groups = weight.unflatten(1, (-1, group))
    values, codes = _values(name)
    scales = groups.abs().amax(-1) / values.abs().max()
    wanted = groups / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    nearest = torch.bucketize(wanted, (values[1:] + values[:-1]) / 2)
    chosen = codes[nearest].flatten(1)
    if form.bits == 4:
        chosen = chosen[:, ::2] | chosen[:, 1::2] << 4
    return Matrix(form, (chosen, scales), None, weight.shape[1])


def _values(name: str) -> tuple[Tensor, Tensor]:
    """The values that codes have, ascending, and the codes."""
    form = ScaledCodes(name, 1)
    codes = torch.arange(1 << form.bits, dtype=torch.uint8)
    stored = codes if form.bits == 8 else codes[::2] | codes[1::2] << 4
    values = form.dequantize([stored, torch.ones(len(codes))], torch.float32)
    is_number = values.isfinite()
    ascending, order = values[is_number].sort()
    return ascending, codes[is_number][order]


def _has_package(name: str) -> bool:
    try:
        gguf.quants.quantize(torch.zeros(1, 256).numpy(), GGMLQuantizationType[name.upper()])
    except NotImplementedError:
        return False
    return True


def _by_package(block: BlockType, weight: Tensor) -> Matrix:
    rows = gguf.quants.quantize(weight.numpy(), GGMLQuantizationType(block.gguf_type))
    blocks = torch.from_numpy(rows).view(torch.uint8)
    return Matrix(block, (blocks,), None, weight.shape[1])


def _by_library(quantize: Any, block: BlockType, weight: Tensor) -> Matrix:
    (rows, width), weight = weight.shape, weight.contiguous()
    blocks = torch.empty(rows, block.row_bytes(width), dtype=torch.uint8)
    quantize(block.gguf_type, weight.data_ptr(), blocks.data_ptr(), 0, rows, width, None)
    return Matrix(block, (blocks,), None, width)


def _ggml(library: Path) -> Any:
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantize.argtypes = (ctypes.c_int, pointer, pointer, number, number, number, pointer)
    quantize.restype = ctypes.c_size_t
    return quantize


@dataclass(frozen=True)
class StoredEntry:
    """A tensor that is read as a quantizer stores it."""

    entry: TensorEntry
    quantize: Quantizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)

    def loaded_bytes(self, _: int) -> int:
        outputs, inputs = self.entry.shape
        return outputs * sum(block.nbytes for block in self.quantize(torch.ones(1, inputs)).blocks)

    def read(self, files: OpenFiles) -> Tensor:
        weight = self.entry.read(files)
        return StoredWeight(self.quantize(weight.float()), weight.dtype)


def stored_as(quantize: Quantizer, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with all matrices of its layers in another format."""
    stored = {name: StoredEntry(entry, quantize) for name, entry in _matrices(checkpoint)}
    return replace(checkpoint, tensors=checkpoint.tensors | stored)


def bits_per_weight(checkpoint: Checkpoint) -> float:
    """The bits of a weight in the matrices of layers."""
    entries = [entry for _, entry in _matrices(checkpoint)]
    num_bytes = sum(entry.loaded_bytes(torch.float32.itemsize) for entry in entries)
    return 8 * num_bytes / sum(prod(entry.shape) for entry in entries)


def _matrices(checkpoint: Checkpoint) -> list[tuple[str, TensorEntry]]:
    tensors = checkpoint.tensors.items()
    return [(name, entry) for name, entry in tensors if ".layers." in name and len(entry.shape) == 2]
