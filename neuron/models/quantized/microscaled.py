"""Four-bit floats (e2m1) with a scale for a few inputs, repacked into GGUF's blocks: MXFP4 and NVFP4.

Both are stored with two neighbours in a byte, the first in its lower half; in a block of GGUF the second half
of its inputs is in the upper halves of bytes. Nothing is rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.models.formats.block_types import BLOCK_TYPES
from neuron.models.matrix import Matrix

MXFP4 = BLOCK_TYPES["mxfp4"]
NVFP4 = BLOCK_TYPES["nvfp4"]
_NV_INPUTS = 16  # of one scale


def mxfp4_matrix(packed: Tensor, exponents: Tensor) -> Matrix:
    """Return the matrix of codes, (…, out, in / 2) uint8, and scales, (…, out, in / 32) uint8."""
    if bool((exponents == 0xFF).any()):
        raise ValueError("a scale is not a number")
    halves = _in_halves(packed, torch.int64)  # (…, out, in / 32, 16)
    blocks = torch.cat([exponents.unsqueeze(-1), halves], -1).flatten(-2)
    return Matrix(MXFP4, (blocks,), None, 2 * packed.shape[-1])


def nvfp4_matrix(packed: Tensor, scales: Tensor, factor: Tensor) -> Matrix:
    """Return the matrix of codes, (out, in / 2), scales, (out, in / 16) float8, and a factor of all."""
    per_block = NVFP4.elements // _NV_INPUTS
    heads = scales.view(torch.uint8).view(len(packed), -1, per_block)
    if bool((heads >= 0x7F).any()):
        raise ValueError("a scale is negative or not a number")
    halves = _in_halves(packed, torch.int32).view(*heads.shape[:2], -1)
    blocks = torch.cat([heads, halves], -1).flatten(-2)
    factors = factor.float().flatten().expand(len(packed)).unsqueeze(-1).contiguous()
    return Matrix(NVFP4, (blocks,), None, 2 * packed.shape[-1], factor=factors)


def _in_halves(packed: Tensor, half: torch.dtype) -> Tensor:
    """Return the codes of each scale, whose bytes are two of `half`, with neighbours half of them apart."""
    words = packed.view(half).view(*packed.shape[:-1], -1, 2)
    first, second = words[..., 0], words[..., 1]
    lower = int.from_bytes(b"\x0f" * half.itemsize, "little")
    even = (first & lower) | ((second & lower) << 4)
    odd = ((first >> 4) & lower) | (second & ~lower)
    shape = (*even.shape, half.itemsize)
    pairs = [each.contiguous().view(torch.uint8).view(shape) for each in (even, odd)]
    return torch.stack(pairs, -1).flatten(-2)
