"""Quantisers in torch: the twins of `ext/quantize.c`, where no compiler was, and what its tests hold it to.

Each takes rows of float32, (rows, in), and returns what is stored of them. Bytes depend on the numbers alone:
every operation is one of IEEE 754's on float32, and sums are taken in the order that is written here. So the
compiled twins give the same bytes, and so does any number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LANES = 8  # in which the compiled twins add
_LEVELS = (15.2, 14.8, 14.0)  # tried for a run's range in q4_k
_SHARES = (1.0, 0.92, 0.84)  # tried of a group's range in int4
_TINY = 1e-36  # a range that is not larger counts as zero: its inverse may be none
_FIFTEEN = torch.tensor(15.0)  # torch divides a number by a tensor in two roundings


def q8_0(rows: Tensor) -> tuple[Tensor]:
    """Return blocks of 32: a float16 scale and 32 int8, which are GGUF's own quantiser's to the last bit."""
    x = rows.view(-1, 32)
    scale = _abs_max(x) / 127
    scaled = x * _inverse(scale)
    whole = scaled.trunc()
    rest = scaled - whole
    codes = (whole + (rest >= 0.5) - (rest <= -0.5).to(rows.dtype)).to(torch.int8)
    return (_rows_of_bytes(rows, _half(scale), codes.view(torch.uint8)),)


def q5_0(rows: Tensor) -> tuple[Tensor]:
    """Return blocks of 32: a float16 scale, 32 fifth bits, 32 nibbles; GGUF's own quantiser's."""
    x = rows.view(-1, 32)
    extreme = x.gather(1, x.abs().argmax(1, keepdim=True))
    scale = extreme / -16
    codes = (x * _inverse(scale) + 16.5).trunc().clamp_(0, 31).to(torch.uint8)
    bits = torch.arange(8, dtype=torch.uint8)
    fifths = ((codes.view(-1, 4, 8) >> 4) << bits).sum(2, dtype=torch.uint8)
    low = codes & 15
    return (_rows_of_bytes(rows, _half(scale), fifths, low[:, :16] | low[:, 16:] << 4),)


def q4_k(rows: Tensor) -> tuple[Tensor]:
    """Return blocks of 256: scale and minimum of 8 runs of 32 in 6 bits each, 256 codes of 4 bits.

    A run's scale and minimum are the least squares' fit to the codes that one of `_LEVELS` gives, the one
    with the least error.
    """
    x = rows.view(-1, 8, 32)
    wanted_scale, wanted_minimum = _fit_runs(x)
    scale_half, scales, scale = _six_bits(wanted_scale)
    minimum_half, minima, minimum = _six_bits(wanted_minimum)
    shifted = x + minimum.unsqueeze(2)
    codes = (shifted * _inverse(scale).unsqueeze(2)).clamp_(0, 15).round_().to(torch.uint8)
    low, high = scales[:, :4], scales[:, 4:]
    low_minima, high_minima = minima[:, :4], minima[:, 4:]
    packed = (
        low | high >> 4 << 6,
        low_minima | high_minima >> 4 << 6,
        high & 15 | (high_minima & 15) << 4,
        (codes[:, 0::2] | codes[:, 1::2] << 4).flatten(1),
    )
    return (_rows_of_bytes(rows, scale_half, minimum_half, *packed),)


def _fit_runs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and minimum of each run, (blocks, 8): its values are about scale * code - minimum."""
    low, high = x.amin(2).clamp_(max=0), x.amax(2)
    reach = high - low
    total = _sum_columns(x)
    best, scale, minimum = torch.full_like(low, -1), torch.zeros_like(low), 0 - low
    for level in _LEVELS:
        inverse = torch.where(reach > _TINY, torch.tensor(level, dtype=x.dtype) / reach, 0)
        q = ((x - low.unsqueeze(2)) * inverse.unsqueeze(2)).clamp_(max=15).round_()
        q_sum, qq_sum, qx_sum = _sum_columns(q), _sum_columns(q * q), _sum_columns(q * x)
        determinant = 32 * qq_sum - q_sum * q_sum
        slope = (32 * qx_sum - q_sum * total) / determinant
        offset = (qq_sum * total - q_sum * qx_sum) / determinant
        through_zero = offset > 0  # which a minimum cannot say
        slope = torch.where(through_zero, qx_sum / qq_sum, slope)
        offset = torch.where(through_zero, 0, offset)
        explained = slope * qx_sum + offset * total  # of the sum of squares
        is_best = (determinant > 0) & (slope > 0) & (explained > best)
        best = torch.where(is_best, explained, best)
        scale = torch.where(is_best, slope, scale)
        minimum = torch.where(is_best, 0 - offset, minimum)
    return scale, minimum


def _six_bits(wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's common factor as float16, its runs' numbers of 6 bits, and what both make."""
    unit = wanted.amax(1, keepdim=True) / 63
    half = _half(unit)
    rounded = (wanted * _inverse(unit)).clamp_(max=63).round_()
    return half, rounded.to(torch.uint8), half.view(torch.float16).float() * rounded


def int4(rows: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, two in a byte, with a float32 scale and a code that stands for zero for each group.

    The scale is the least squares' fit to the codes that one of `_SHARES` gives, the one with the least
    error.
    """
    x = rows.view(-1, group)
    bottom = (0 - x).amax(1, keepdim=True).clamp_(min=0)
    reach = x.amax(1, keepdim=True).clamp_(min=0) + bottom
    best, scale, inverse, zero = (torch.full_like(reach, value) for value in (-1, 0, 0, 0))
    for share in _SHARES:
        part = torch.tensor(share, dtype=x.dtype)
        covered = reach * part
        factor = torch.where(covered > _TINY, _FIFTEEN / covered, 0)
        origin = (bottom * part * factor).round()
        q = (x * factor).clamp(-origin, 15 - origin).round_()
        squares, product = _sum_lanes(q * q), _sum_lanes(q * x)
        slope = torch.where(squares > 0, product / squares, 0)
        explained = slope * product
        is_best = explained > best
        best, scale = torch.where(is_best, explained, best), torch.where(is_best, slope, scale)
        inverse, zero = torch.where(is_best, factor, inverse), torch.where(is_best, origin, zero)
    codes = ((x * inverse).clamp(-zero, 15 - zero).round_() + zero).to(torch.uint8)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    count = len(rows)
    return packed.view(count, -1), scale.view(count, -1), zero.to(torch.uint8).view(count, -1)


def fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes of e4m3 and one float32 scale for each row."""
    scale = _abs_max(rows) / 448
    codes = (rows * _inverse(scale)).to(torch.float8_e4m3fn)
    return codes.view(torch.uint8), scale


# --- pieces -----------------------------------------------------------------------------------------------


def _abs_max(x: Tensor) -> Tensor:
    return x.abs().amax(1, keepdim=True)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale.abs() > _TINY, 1 / scale, 0)


def _half(x: Tensor) -> Tensor:
    """Return the bytes of the nearest float16, (n, 2)."""
    return x.to(torch.float16).view(torch.uint8)


def _rows_of_bytes(rows: Tensor, *parts: Tensor) -> Tensor:
    return torch.cat(parts, 1).view(len(rows), -1)


def _sum_columns(x: Tensor) -> Tensor:
    """Return the sum over the last dimension, from its first value to its last."""
    total = torch.zeros_like(x[..., 0])
    for column in x.unbind(-1):
        total += column
    return total


def _sum_lanes(x: Tensor) -> Tensor:
    """Return the sum over each row, (n, 1): of every eighth value first, then of the eight sums by halves."""
    v = _sum_columns(x.view(len(x), -1, _LANES).transpose(1, 2))
    for half in (4, 2, 1):
        v = v[:, :half] + v[:, half:]
    return v
