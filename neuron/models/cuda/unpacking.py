"""How a Triton kernel unpacks each stored format in registers: a function of `triton.jit` per format.

A kernel goes through a row by units: `bytes` bytes whose codes share their scales, each byte with the codes
of `parts` elements. An unpacking function is given what is stored, `row` (rows, 1), `unit` (1, units), `byte`
(1, 1, bytes) and one of the parts, and returns the elements' values in float32, (rows, units, bytes), and
their columns, (1, units, bytes). Scales have two dimensions, so that each is read once for all bytes of its
unit; and the parts read the same bytes, which the compiler reads once.

Block formats are those of GGUF (ggml's `ggml-common.h` and `ggml-quants.c`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from neuron.device.cuda.small_float import small_float


@dataclass(frozen=True, slots=True)
class Unpacking:
    """An unpacking function and the units that it works on."""

    function: Any  # of `triton.jit`
    bytes: int
    parts: int

    @property
    def elements(self) -> int:
        """Elements of a unit: what a row's length must be a multiple of."""
        return self.bytes * self.parts


@triton.jit
def _wide(tile):
    """Return (rows, units) as (rows, units, 1)."""
    return tile[:, :, None]


@triton.jit
def _half(address):
    return tl.load(address.to(tl.pointer_type(tl.float16))).to(tl.float32)


@triton.jit
def _signed(address):
    return tl.load(address.to(tl.pointer_type(tl.int8))).to(tl.float32)


@triton.jit
def _nibble(address, byte, PART: tl.constexpr):
    """Return the four bits of a part, in bytes from `address` on."""
    return tl.load(_wide(address) + byte) >> (4 * PART) & 15


@triton.jit
def _fifth_bit(address, byte, PART: tl.constexpr):
    """Return the bits above a nibble, of 32 elements one after the other."""
    return (tl.load(_wide(address) + 2 * PART + byte // 8) >> (byte % 8) & 1) << 4


@triton.jit
def _power(exponent):
    """Return 2**(exponent - 128), the half of an e8m0 scale: also where that is no normal number."""
    bits = tl.where(exponent < 2, 0x200000 << exponent, (exponent - 1) << 23)
    return bits.to(tl.float32, bitcast=True)


# --- block formats of 32 and 64 elements ------------------------------------------------------------------


@triton.jit
def _q8_0(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 34
    return _signed(_wide(block + 2) + byte) * _wide(_half(block)), _wide(unit * 32) + byte


@triton.jit
def _q4_0(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 18
    code = _nibble(block + 2, byte, PART).to(tl.float32)
    return (code - 8) * _wide(_half(block)), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _q4_1(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 20
    code = _nibble(block + 4, byte, PART).to(tl.float32)
    return code * _wide(_half(block)) + _wide(_half(block + 2)), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _q5_0(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 22
    code = _nibble(block + 6, byte, PART) | _fifth_bit(block + 2, byte, PART)
    return (code.to(tl.float32) - 16) * _wide(_half(block)), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _q5_1(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 24
    code = (_nibble(block + 8, byte, PART) | _fifth_bit(block + 4, byte, PART)).to(tl.float32)
    return code * _wide(_half(block)) + _wide(_half(block + 2)), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _iq4_nl(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 18
    value = tl.load(table + _nibble(block + 2, byte, PART))
    return value * _wide(_half(block)), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _mxfp4(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block = blocks + (row * (columns // 32) + unit) * 17
    doubled = small_float(_nibble(block + 1, byte, PART), 2, 1) * 2
    half_scale = _power(tl.load(block).to(tl.int32))
    return doubled * _wide(half_scale), _wide(unit * 32 + 16 * PART) + byte


@triton.jit
def _nvfp4(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, sub = blocks + (row * (columns // 64) + unit // 4) * 36, unit % 4
    code = tl.load(block + sub)
    scale = tl.where(code == 0x7F, 0.0, small_float(code & 0x7F, 4, 3))
    value = small_float(_nibble(block + 4 + 8 * sub, byte, PART), 2, 1)
    return value * _wide(scale), _wide(unit * 16 + 8 * PART) + byte


# --- block formats of 256 elements ------------------------------------------------------------------------


@triton.jit
def _q2_k(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, half, side = blocks + (row * (columns // 256) + unit // 4) * 84, unit % 4 // 2, unit % 2
    packed = tl.load(block + 8 * half + 2 * PART + side)
    scale = (packed & 15).to(tl.float32) * _half(block + 80)
    least = (packed >> 4).to(tl.float32) * _half(block + 82)
    code = tl.load(_wide(block + 16 + 32 * half + 16 * side) + byte) >> (2 * PART) & 3
    column = unit // 4 * 256 + 128 * half + 32 * PART + 16 * side
    return code.to(tl.float32) * _wide(scale) - _wide(least), _wide(column) + byte


@triton.jit
def _q3_k(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, half, side = blocks + (row * (columns // 256) + unit // 4) * 110, unit % 4 // 2, unit % 2
    index = 8 * half + 2 * PART + side  # of 16 scales: 4 bits in 8 bytes, the upper 2 in the next 4
    low = tl.load(block + 96 + index % 8) >> (index // 8 * 4) & 15
    high = tl.load(block + 104 + index % 4) >> (index // 4 * 2) & 3
    scale = ((low | high << 4).to(tl.float32) - 32) * _half(block + 108)
    code = tl.load(_wide(block + 32 + 32 * half + 16 * side) + byte) >> (2 * PART) & 3
    third = tl.load(_wide(block + 16 * side) + byte) >> _wide(4 * half + PART) & 1
    column = unit // 4 * 256 + 128 * half + 32 * PART + 16 * side
    return ((code | third << 2).to(tl.float32) - 4) * _wide(scale), _wide(column) + byte


@triton.jit
def _scale_and_least(block, index):
    """Return scale and subtrahend of run `index` of a block of Q4_K or Q5_K: six bits each, in 12 bytes."""
    step = index % 4
    first, second, third = (
        tl.load(block + 4 + step),
        tl.load(block + 8 + step),
        tl.load(block + 12 + step),
    )
    scale = tl.where(index < 4, first & 63, (third & 15) | (first >> 6) << 4)
    least = tl.where(index < 4, second & 63, third >> 4 | (second >> 6) << 4)
    return scale.to(tl.float32) * _half(block), least.to(tl.float32) * _half(block + 2)


@triton.jit
def _q4_k(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, run = blocks + (row * (columns // 256) + unit // 4) * 144, unit % 4
    scale, least = _scale_and_least(block, 2 * run + PART)
    code = _nibble(block + 16 + 32 * run, byte, PART).to(tl.float32)
    return code * _wide(scale) - _wide(least), _wide(unit * 64 + 32 * PART) + byte


@triton.jit
def _q5_k(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, run = blocks + (row * (columns // 256) + unit // 4) * 176, unit % 4
    scale, least = _scale_and_least(block, 2 * run + PART)
    fifth = tl.load(_wide(block + 16) + byte) >> _wide(2 * run + PART) & 1
    code = (_nibble(block + 48 + 32 * run, byte, PART) | fifth << 4).to(tl.float32)
    return code * _wide(scale) - _wide(least), _wide(unit * 64 + 32 * PART) + byte


@triton.jit
def _q6_k(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, half, quarter = blocks + (row * (columns // 256) + unit // 8) * 210, unit % 8 // 4, unit % 4
    scale = _signed(block + 192 + 8 * half + 4 * PART + quarter) * _half(block + 208)
    low = _nibble(block + 64 * half + 16 * quarter, byte, PART)
    high = tl.load(_wide(block + 128 + 32 * half + quarter % 2 * 16) + byte)
    high = high >> _wide(quarter // 2 * 2 + 4 * PART) & 3
    column = unit // 8 * 256 + 128 * half + 64 * PART + 16 * quarter
    return ((low | high << 4).to(tl.float32) - 32) * _wide(scale), _wide(column) + byte


@triton.jit
def _iq4_xs(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    block, run = blocks + (row * (columns // 256) + unit // 8) * 136, unit % 8
    low = tl.load(block + 4 + run // 2) >> (run % 2 * 4) & 15
    high = tl.load(block + 2 + run // 4) >> (run % 4 * 2) & 3
    scale = ((low | high << 4).to(tl.float32) - 32) * _half(block)
    value = tl.load(table + _nibble(block + 8 + 16 * run, byte, PART))
    return value * _wide(scale), _wide(unit * 32 + 16 * PART) + byte


# --- codes with scales beside them: a unit is 32 elements -------------------------------------------------


@triton.jit
def _int8(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    code = tl.load(_wide(blocks + row * columns + unit * 32) + byte).to(tl.float32)
    place = row * (columns // group) + unit * 32 // group
    return _from_zero(code, zeros, place, 128) * _wide(tl.load(scales + place)), _wide(unit * 32) + byte


@triton.jit
def _int4(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    code = _nibble(blocks + row * (columns // 2) + unit * 16, byte, PART).to(tl.float32)
    place = row * (columns // group) + unit * 32 // group
    value = _from_zero(code, zeros, place, 8) * _wide(tl.load(scales + place))
    return value, _wide(unit * 32 + PART) + 2 * byte


@triton.jit
def _from_zero(code, zeros, place, MIDDLE: tl.constexpr):
    """Return codes counted from their stored zero, or from the middle of their range."""
    zero = MIDDLE if zeros is None else _wide(tl.load(zeros + place).to(tl.float32))
    return code - zero


@triton.jit
def _float8(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    code = tl.load(_wide(blocks + row * columns + unit * 32) + byte)
    value = tl.where((code & 0x7F) == 0x7F, float("nan"), small_float(code, 4, 3))
    scale = tl.load(scales + row * (columns // group) + unit * 32 // group)
    return value * _wide(scale), _wide(unit * 32) + byte


@triton.jit
def _tabled4(blocks, scales, zeros, table, row, unit, byte, columns, group, PART: tl.constexpr):
    value = tl.load(table + _nibble(blocks + row * (columns // 2) + unit * 16, byte, PART))
    scale = tl.load(scales + row * (columns // group) + unit * 32 // group)
    return value * _wide(scale), _wide(unit * 32 + PART) + 2 * byte


UNPACKING = {
    "q4_0": Unpacking(_q4_0, 16, 2),
    "q4_1": Unpacking(_q4_1, 16, 2),
    "q5_0": Unpacking(_q5_0, 16, 2),
    "q5_1": Unpacking(_q5_1, 16, 2),
    "q8_0": Unpacking(_q8_0, 32, 1),
    "q2_k": Unpacking(_q2_k, 16, 4),
    "q3_k": Unpacking(_q3_k, 16, 4),
    "q4_k": Unpacking(_q4_k, 32, 2),
    "q5_k": Unpacking(_q5_k, 32, 2),
    "q6_k": Unpacking(_q6_k, 16, 2),
    "iq4_nl": Unpacking(_iq4_nl, 16, 2),
    "iq4_xs": Unpacking(_iq4_xs, 16, 2),
    "mxfp4": Unpacking(_mxfp4, 16, 2),
    "nvfp4": Unpacking(_nvfp4, 8, 2),
    "int4": Unpacking(_int4, 16, 2),
    "int8": Unpacking(_int8, 32, 1),
    "fp8": Unpacking(_float8, 32, 1),
    "nf4": Unpacking(_tabled4, 16, 2),
    "fp4": Unpacking(_tabled4, 16, 2),
}
