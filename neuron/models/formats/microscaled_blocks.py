"""Decoders of 4-bit floats (e2m1: one bit of sign, two of exponent, one of mantissa) under 8-bit scales.

The values are doubled to whole numbers and the scales halved, as kernels want them. MXFP4 is of the OCP
Microscaling Formats specification 1.0; NVFP4 has blocks of 16, and its scale is a float itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.models.formats.block_type import bits
from neuron.models.formats.small_blocks import lookup, nibbles

DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def mxfp4(blocks: Tensor) -> Tensor:
    """A scale (e8m0), 16 bytes of nibbles as in `small_blocks`."""
    return _half_e8m0(blocks[:, :1]) * lookup(DOUBLED_E2M1, nibbles(blocks[:, 1:]))


def nvfp4(blocks: Tensor) -> Tensor:
    """Four scales (e4m3 without its sign), four runs of 8 bytes: low halves are a run's first 8 elements."""
    values = lookup(DOUBLED_E2M1, bits(blocks[:, 4:].reshape(-1, 4, 8), 4)).flatten(2)
    return (_half_e4m3(blocks[:, :4]).unsqueeze(2) * values).flatten(1)


def _half_e8m0(exponents: Tensor) -> Tensor:
    """Return 2 ** (exponent - 128), subnormal for 0 and 1."""
    wide = exponents.int()
    return torch.where(wide < 2, 0x00200000 << wide.clamp(max=1), (wide - 1) << 23).view(torch.float32)


def _half_e4m3(scales: Tensor) -> Tensor:
    """Return half of each scale; NaN's code counts as nothing."""
    exponent, mantissa = ((scales >> 3) & 15).int(), (scales & 7).float()
    normal = torch.ldexp(mantissa + 8, exponent - 11)
    return torch.where(exponent == 0, mantissa * 2.0**-10, normal) * (scales != 0x7F)
