"""Random weights of every format that is multiplied on CUDA as it is stored."""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix

_PLAIN = {"f32", "f16", "bf16", "tq1_0", "tq2_0"}
BLOCK_FORMATS = tuple(name for name in BLOCK_TYPES if name not in _PLAIN)
# Each with the columns that share a scale, 0 for a whole row, and whether it has zeros.
CODES = {
    "int8": (64, False),
    "int8 with zeros": (32, True),
    "int4": (128, False),
    "int4 with zeros": (32, True),
    "fp8": (128, False),
    "fp8 by row": (0, False),
    "nf4": (64, False),
    "fp4": (64, False),
}


def stored_matrix(name: str, *shape: int) -> Matrix:
    """A matrix, (…, out, in), or several, with a bias."""
    *outputs, columns = shape
    bias = torch.randn(outputs)
    if name in BLOCK_FORMATS:
        return Matrix(BLOCK_TYPES[name], (_blocks(name, *outputs, columns),), bias, columns)
    group, has_zeros = CODES[name]
    codes = ScaledCodes(name.split(maxsplit=1)[0], group or columns, has_zeros)
    stored = _bytes(*outputs, columns * codes.bits // 8)
    if codes.name == "fp8":
        stored[(stored & 0x7F) == 0x7F] = 0  # not a number
    scales = torch.randn(*outputs, columns // codes.group_size)
    zeros = [_bytes(*scales.shape) >> (8 - codes.bits)] if has_zeros else []
    return Matrix(codes, (stored, scales, *zeros), bias, columns)


def _blocks(name: str, *shape: int) -> Tensor:
    """Blocks that stand for ordinary numbers."""
    *outputs, columns = shape
    block_type = BLOCK_TYPES[name]
    found = _bytes(4096, block_type.size)
    largest = block_type.decode(found).abs().amax(1)
    found = found[(largest > 0.01) & (largest < 100)]
    places = torch.randint(0, len(found), (*outputs, columns // block_type.elements))
    return found[places].flatten(-2)


def _bytes(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)
