"""Floats of a few bits in Triton kernels, on every device."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def small_float(code, EXPONENT_BITS: tl.constexpr, MANTISSA_BITS: tl.constexpr):
    """Return the values of floats without infinities: float16 holds them exactly, but for the bias."""
    code = code.to(tl.uint16)
    magnitude: tl.constexpr = EXPONENT_BITS + MANTISSA_BITS
    sign = (code >> magnitude & 1) << 15
    bits = sign | (code & ((1 << magnitude) - 1)) << (10 - MANTISSA_BITS)
    bias: tl.constexpr = 1 << (16 - (1 << (EXPONENT_BITS - 1)))
    return bits.to(tl.float16, bitcast=True).to(tl.float32) * bias
