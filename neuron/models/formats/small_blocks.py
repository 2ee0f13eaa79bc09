"""Decoders of plain numbers and of blocks of 32 with a float16 scale.

In a block of 4-bit codes, byte i holds element i in its low half and element i + 16 in its high half.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from neuron.models.formats.block_type import Decode, bits, floats

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def plain(dtype: torch.dtype) -> Decode:
    """Return the decoder of numbers of `dtype`."""
    return lambda blocks: floats(blocks, dtype)


def nibbles(packed: Tensor) -> Tensor:
    """Return the 4-bit codes of bytes, all low halves before all high ones: (…, n) to (…, 2 n)."""
    return bits(packed, 4).flatten(-2)


def lookup(values: tuple[int, ...], codes: Tensor) -> Tensor:
    """Return each code's value, float32."""
    return _table(values, codes.device)[codes.int()]


@cache  # a recorded CUDA graph must not copy from the host
def _table(values: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def q4_0(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * (nibbles(blocks[:, 2:]).float() - 8)


def q4_1(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * nibbles(blocks[:, 4:]) + floats(blocks[:, 2:4])


def q5_0(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * (_five_bits(blocks[:, 2:]).float() - 16)


def q5_1(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * _five_bits(blocks[:, 4:]) + floats(blocks[:, 2:4])


def q8_0(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * floats(blocks[:, 2:], torch.int8)


def iq4_nl(blocks: Tensor) -> Tensor:
    return floats(blocks[:, :2]) * lookup(IQ4_VALUES, nibbles(blocks[:, 2:]))


def _five_bits(packed: Tensor) -> Tensor:
    """Return codes of four bytes of fifth bits, bit j of element j, and sixteen of nibbles."""
    fifth = bits(packed[:, :4], 1).transpose(1, 2).flatten(1)
    return nibbles(packed[:, 4:]) | (fifth << 4)
