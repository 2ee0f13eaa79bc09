"""Decoders of super-blocks: 256 numbers in runs of 16 or 32, each with a small scale of its own.

A run's scale, and the minimum that some types subtract, are a few bits times a float16 of the whole
super-block. The layouts are drawn where the bits of a code stand apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.models.formats.block_type import bits, floats
from neuron.models.formats.small_blocks import IQ4_VALUES, lookup, nibbles


def q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of scale (low) and minimum (high), 64 of codes, scale, minimum."""
    scales = floats(blocks[:, 80:82]) * (blocks[:, :16] & 15)
    minima = floats(blocks[:, 82:84]) * (blocks[:, :16] >> 4)
    return _affine(scales, _quarters(blocks[:, 16:80]), minima)


def q3_k(blocks: Tensor) -> Tensor:
    """32 bytes of third bits, 64 of two-bit codes, 12 of six-bit scales, scale.

    A third bit that is not set takes 4 from the code.
    """
    thirds = bits(blocks[:, :32], 1).flatten(1)
    codes = _quarters(blocks[:, 32:96]) + 4.0 * thirds - 4
    low = nibbles(blocks[:, 96:104])
    high = bits(blocks[:, 104:108], 2).flatten(1)
    scales = (low | (high << 4)).float() - 32
    return _scaled(floats(blocks[:, 108:110]) * scales, codes)


def q4_k(blocks: Tensor) -> Tensor:
    """Scale, minimum, 12 bytes of scales and minima, 128 of nibbles."""
    scales, minima = _scales_and_minima(blocks)
    return _affine(scales, _halves(blocks[:, 16:144]), minima)


def q5_k(blocks: Tensor) -> Tensor:
    """Scale, minimum, 12 bytes of scales and minima, 32 of fifth bits, 128 of nibbles."""
    scales, minima = _scales_and_minima(blocks)
    fifths = bits(blocks[:, 16:48], 1).flatten(1)
    return _affine(scales, _halves(blocks[:, 48:176]) | (fifths << 4), minima)


def q6_k(blocks: Tensor) -> Tensor:
    """128 bytes of nibbles, 64 of two more bits, 16 of scales (int8), scale.

    Half h has 64 bytes of nibbles and 32 of high bits, and in each the elements 0…31, 32…63 and so on.
    """
    low = nibbles(_runs(blocks[:, :128], 64))
    codes = low.flatten(1) | (_quarters(blocks[:, 128:192]) << 4)
    scales = floats(blocks[:, 208:210]) * floats(blocks[:, 192:208], torch.int8)
    return _scaled(scales, codes.float() - 32)


def iq4_xs(blocks: Tensor) -> Tensor:
    """Scale, two bytes of two high bits and four of four low bits of each run's scale, 128 of nibbles."""
    shifts = torch.arange(0, 16, 2, device=blocks.device)
    high = (blocks[:, 2:3].int() | (blocks[:, 3:4].int() << 8)) >> shifts & 3
    low = bits(blocks[:, 4:8], 4).transpose(1, 2).flatten(1)
    scales = floats(blocks[:, :2]) * ((low | (high << 4)).float() - 32)
    codes = nibbles(_runs(blocks[:, 8:136], 16)).flatten(1)
    return _scaled(scales, lookup(IQ4_VALUES, codes))


def tq1_0(blocks: Tensor) -> Tensor:
    """48 bytes of five digits of base 3 each, four of four digits, scale: a digit less one is the code.

    A byte is the digits' number as a fraction of 243, rounded up into 256ths; times 3 the next digit carries.
    """
    parts = (blocks[:, :32], 5), (blocks[:, 32:48], 5), (blocks[:, 48:52], 4)
    digits = torch.cat([_ternary_digits(packed, count) for packed, count in parts], 1)
    return floats(blocks[:, 52:54]) * (digits.float() - 1)


def tq2_0(blocks: Tensor) -> Tensor:
    """64 bytes of two-bit codes, scale."""
    return floats(blocks[:, 64:66]) * (_quarters(blocks[:, :64]).float() - 1)


def _quarters(packed: Tensor) -> Tensor:
    """Return two-bit codes: of each 32 bytes first all lowest, then all second lowest, and so on."""
    return bits(_runs(packed, 32), 2).flatten(1)


def _halves(packed: Tensor) -> Tensor:
    """Return four-bit codes: of each 32 bytes first all low, then all high halves."""
    return nibbles(_runs(packed, 32)).flatten(1)


def _scales_and_minima(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and minima of eight runs, six bits each in twelve bytes.

    Bytes 0…3 and 4…7 hold the first four scales and minima. Bytes 8…11 hold the low four bits of the last
    four, scales low and minima high; their high bits are the highest two of bytes 0…7.
    """
    first, last = blocks[:, 4:12], blocks[:, 12:16]
    high = (first >> 2) & 0x30
    scales = torch.cat([first[:, :4] & 63, (last & 15) | high[:, :4]], 1)
    minima = torch.cat([first[:, 4:] & 63, (last >> 4) | high[:, 4:]], 1)
    return floats(blocks[:, :2]) * scales, floats(blocks[:, 2:4]) * minima


def _ternary_digits(packed: Tensor, count: int) -> Tensor:
    powers = torch.tensor([1, 3, 9, 27, 81][:count], device=packed.device, dtype=torch.int32).view(-1, 1)
    return (((packed.unsqueeze(1) * powers & 0xFF) * 3) >> 8).flatten(1)


def _runs(columns: Tensor, size: int) -> Tensor:
    """Return columns in runs of `size`: (blocks, n) to (blocks, n / size, size)."""
    return columns.reshape(len(columns), -1, size)


def _scaled(scales: Tensor, codes: Tensor) -> Tensor:
    """Return codes, (blocks, 256), times the scales of their runs, (blocks, runs)."""
    return (scales.unsqueeze(2) * _runs(codes, 256 // scales.shape[1])).flatten(1)


def _affine(scales: Tensor, codes: Tensor, minima: Tensor) -> Tensor:
    products = _runs(_scaled(scales, codes), 256 // scales.shape[1])
    return (products - minima.unsqueeze(2)).flatten(1)
