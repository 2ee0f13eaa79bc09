"""AWQ (arXiv 2306.00978), as AutoAWQ's "gemm" layout stores it.

    qweight   int32 (in, out / 8): codes of an input, packed along the outputs
    qzeros    int32 (groups, out / 8)
    scales    (groups, out)

A word holds the codes of eight outputs: first the even ones, then the odd ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from neuron.models.formats.scaled_codes import ScaledCodes
from neuron.models.matrix import Matrix
from neuron.models.quantized.codes import FLOATS, integer_format, integers, unpack
from neuron.models.quantized.scheme import (
    Parts,
    QuantizedEntry,
    SchemeSettings,
    check_groups,
    check_part,
    part_of,
)

_BITS = 4
_HALVES = 0x0F0F0F0F  # the lower four bits of each byte of a word


class Awq:
    """A `neuron.models.quantized.scheme.Scheme`."""

    suffixes = ".qweight", ".qzeros", ".scales"
    weight_suffix = ".weight"
    unused = ()

    def __init__(self, settings: SchemeSettings) -> None:
        bits = "w_bit" if "w_bit" in settings.values else "bits"
        settings.one_of(bits, (_BITS,))
        settings.one_of("zero_point", (True,), default=True)
        settings.one_of("version", ("gemm", "GEMM"), default="gemm")
        size = "q_group_size" if "q_group_size" in settings.values else "group_size"
        self._group_size = settings.size(size, 128)

    def entry(self, module: str, parts: Parts) -> QuantizedEntry | None:
        shape = part_of(module, parts, ".qweight").shape
        count, words = shape if len(shape) == 2 else (0, 0)
        size = count if self._group_size == -1 else self._group_size
        groups = -(-count // size)
        for suffix, shape in ((".qweight", (groups * size, words)), (".qzeros", (groups, words))):
            check_part(module, parts, suffix, dtypes=["I32"], shapes=[shape], key="group_size")
        check_part(module, parts, ".scales", dtypes=FLOATS, shapes=[(groups, words * 8)], key="group_size")
        check_groups(module, parts, count, size)
        kept = integer_format(_BITS, size, has_zeros=True)
        return QuantizedEntry(module, parts, (words * 8, count), kept, partial(_build, kept))


def _build(kept: ScaledCodes, tensors: Mapping[str, Tensor]) -> Matrix:
    codes, zeros = _in_pairs(tensors[".qweight"]), _in_order(tensors[".qzeros"])
    return integers(kept, _BITS, codes, tensors[".scales"].t(), zeros.t())


def _in_pairs(words: Tensor) -> Tensor:
    """Return the codes of words, (in, out / 8), as pairs of inputs, (out, in / 2): whole words at a time."""
    words = words.t().contiguous()
    even, odd = words[:, 0::2], words[:, 1::2]
    lower = (even & _HALVES) | ((odd & _HALVES) << 4)  # of outputs 0, 4, 1, 5
    upper = ((even >> 4) & _HALVES) | (odd & ~_HALVES)  # of outputs 2, 6, 3, 7
    pairs = torch.stack([lower, upper], 1).view(torch.uint8).view(len(words), 2, -1, 2, 2)
    # An output is 4 · q + 2 · half + p in dimensions (words, half, inputs, p, q).
    return pairs.permute(0, 4, 1, 3, 2).reshape(8 * len(words), -1)


def _in_order(words: Tensor) -> Tensor:
    """Return the codes of a row's words, (rows, words) to (rows, words · 8)."""
    codes = unpack(words, _BITS, words.shape[-1] * 8)
    return codes.view(len(words), -1, 2, 2, 2).permute(0, 1, 3, 4, 2).flatten(1)
